"""Adds rows to a layer's state without a model or hooks."""

import torch
from torch import Tensor

from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import Alignment, align
from normscope.statistics.batch_summary import BatchSummary, BatchSums, OutputErrors
from normscope.statistics.buffers import Scratch
from normscope.statistics.extremes import Peaks
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import Rows
from normscope.statistics.outliers import BatchOutliers


def add_errors(state: LayerState, expected: Tensor, out: Tensor) -> None:
    """Add rows (V, D) of an output, and what a formula gives in their place, to a state."""
    rows, where = Rows.of(torch.zeros_like(out)), align((len(out), 1), None, -1, out.device)
    sums, _ = BatchSums.of(rows, rows.x, where, 0.0, Scratch())
    state.add(BatchSummary(0, sums, errors=OutputErrors.of(expected, out)))


class Running:
    """A layer's state that begins with these moments."""

    def __init__(self, moments: Accumulator, scratch: Scratch | None = None) -> None:
        self.state, self._scratch, self._eps = LayerState(moments=moments), scratch or Scratch(), moments.eps

    def update(self, rows: Rows, y: Tensor, where: Alignment, sizes: Tensor | None = None) -> None:
        """Add rows x and y (V, D), and |real output|, the `sizes` (V, D)."""
        outliers = BatchOutliers.of(rows, sizes, where)
        sums, _ = BatchSums.of(rows, y, where, self._eps, self._scratch)
        inputs = Peaks(rows.x.abs().amax(0), rows.x, where)
        self.state.add(BatchSummary(0, sums, outliers, inputs))

    def read(self) -> Accumulator:
        """Return the complete moments."""
        self.state.flush()
        assert self.state.moments is not None
        return self.state.moments
