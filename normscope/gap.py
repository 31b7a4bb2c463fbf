"""How far a layer's outputs are from what its formula makes of its inputs."""

import torch
from torch import Tensor

from normscope.seen import Seen

# So many batches wait at most.
WAITING = 256


class OutputGap:
    """The gaps of many batches, over rows whose output is finite; they stay on their device until read."""

    def __init__(self) -> None:
        self._waiting: list[Tensor] = []

    def add(self, expected: Tensor, out: Tensor) -> None:
        """Add the rows (V, D) of a batch; `expected` is overwritten."""
        size = torch.linalg.vector_norm(out.to(expected.dtype), dim=1).double()
        gap = torch.linalg.vector_norm(expected.sub_(out), torch.inf, dim=1).double()
        known = size.isfinite()
        worst, square = gap.where(known, 0.0).max(), size.square_().where(known, 0.0).sum()
        self._waiting.append(torch.stack([worst, square, known.sum()]))

    @property
    def is_full(self) -> bool:
        """Whether it is time to read."""
        return len(self._waiting) > WAITING

    def read_into(self, seen: Seen, features: int) -> None:
        """Add what was found, since the last time, to what a layer has seen."""
        if self._waiting:
            worst, square, rows = torch.stack(self._waiting).unbind(1)
            seen.worst_error = max(seen.worst_error, float(worst.max()))
            seen.output_square += float(square.sum())
            seen.output_size += int(rows.sum()) * features
            self._waiting = []
