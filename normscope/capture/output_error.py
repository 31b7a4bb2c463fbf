"""Distance between a layer's outputs and the outputs of its formula."""

import torch
from torch import Tensor

from normscope.capture.backlog import Backlog
from normscope.statistics.layer_state import LayerState


class OutputGap:
    """The gaps of many batches, over rows with finite output; they stay on their device until read."""

    def __init__(self) -> None:
        self._backlog = Backlog()

    def add(self, expected: Tensor, out: Tensor) -> None:
        """Add the rows (V, D) of a batch; `expected` is overwritten."""
        sizes = torch.linalg.vector_norm(out.to(expected.dtype), dim=1)
        gaps = expected.sub_(out).abs_().amax(1)  # A norm of order infinity takes ten times as long.
        self._backlog.add(gaps, sizes)

    @property
    def is_full(self) -> bool:
        """Whether the gaps should be read now."""
        return self._backlog.is_full

    def read_into(self, state: LayerState, features: int) -> None:
        """Add the gaps since the last read to the layer's state `state`; `features` is D."""
        if self._backlog:
            gap, size = (torch.cat(parts).double() for parts in self._backlog.take())
            known = size.isfinite()
            state.worst_error = max(state.worst_error, float(gap.where(known, 0.0).max()))
            state.output_square += float(size.square().where(known, 0.0).sum())
            state.output_size += int(known.sum()) * features
