"""Buffers per-batch sums and folds them into a layer's moments.

A forward waits for this work, so each element is read only a few times. The buffers hold sums around a
fixed member of each cell, and a few numbers for each token and each sample.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from normscope.capture.batch_sums import BatchSums, CellStatistics, CellSums
from normscope.capture.fused_sums import OnePass
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Backlog, Scratch
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import CoMoments, Labels, Likeness, Moments, Rows, Spread, grown, likeness

# After this many tokens the sums over cells are folded and start again, with a new pivot in each cell.
_TOKENS = 1 << 16


class StreamingMoments:
    """Buffers the batches of one layer; `read` folds them into its moments."""

    def __init__(self, moments: Accumulator, scratch: Scratch | None = None) -> None:
        self._moments, self._scratch = moments, scratch or Scratch()
        features, device = moments.features, moments.output.mean.device
        # The table has sums of x and y by position; the output has sums of y alone.
        self._table, self._output = (PivotSums(rows, features, device) for rows in (4, 2))
        self.tokens = moments.count
        """The number of tokens so far."""
        self._backlog = Backlog()
        self._summed = 0

    @property
    def eps(self) -> float:
        """The eps of the layer's cells."""
        return self._moments.eps

    def update(self, rows: Rows, y: Tensor, where: Alignment, sizes: Tensor | None = None) -> CellStatistics:
        """Add the rows x of one batch and their y (V, D); all rows of a sample come in one call.

        `sizes` (V, D) is |real output of the layer|, where it is known. Returns the statistics of x by
        sample, (samples of the batch, D).
        """
        # First, because the sums below may overwrite `sizes`, which can be a scratch block.
        self._moments.outliers.add(rows, sizes, where)
        if self._moments.words is not None and where.token_ids is not None:
            self._moments.words.add(rows.x, where.token_ids)
        sums, samples = BatchSums.of(rows, y, where, self._moments.eps, self._scratch)
        self.add(sums, where)
        return samples

    def add_pass(self, result: OnePass, x: Callable[[], Tensor], where: Alignment) -> None:
        """Add the results of one pass over a batch; `x` returns its rows (V, D), and is called if needed."""
        self._moments.outliers.add_output(len(result.sums.token), result.large, result.largest)
        if result.massive:
            self._moments.outliers.add_massive(x(), where, result.massive)
        self.add(result.sums, where)

    def add(self, batch: BatchSums, where: Alignment) -> None:
        """Add the sums of one batch."""
        self._table.add(batch.position)
        self._output.add(batch.output)
        self._backlog.add(batch.token, where.position.group, *batch.samples)
        self._summed += len(batch.token)
        self.tokens += len(batch.token)
        # With a pivot far from the mean, more and more digits of the sums would be lost.
        if self._summed > _TOKENS:
            self.read()
        # The backlog alone: sums over cells do not grow with the number of batches.
        elif self._backlog.is_full:
            self._read_backlog()

    def read(self) -> Accumulator:
        """Fold all buffers and return the moments, which are complete until the next update."""
        if self._summed:
            self._moments.table.merge(self._table.co_moments())
            self._moments.output.merge(self._output.moments())
            self._table.clear()
            self._output.clear()
            self._summed = 0
        self._read_backlog()
        return self._moments

    def _read_backlog(self) -> None:
        if self._backlog:
            tokens, positions, *samples = self._backlog.take()
            # In float64 from here on, because these moments run over the whole corpus.
            self._read_tokens(torch.cat(tokens).double(), torch.cat(positions))
            self._read_samples(*samples)

    def _read_tokens(self, tokens: Tensor, positions: Tensor) -> None:
        self._moments.by_position.merge(Moments.by_group(tokens, Labels.of(positions)))
        self._moments.token.add(tokens[:, 0], tokens[:, 1])

    def _read_samples(
        self,
        spreads: tuple[Tensor, ...],
        likenesses: tuple[Tensor, ...],
        sequences: tuple[Tensor, ...],
        within: tuple[Tensor, ...],
    ) -> None:
        count, mean, variance, covariance = torch.cat(sequences).double().unbind(1)
        moments, features = self._moments, self._moments.within_samples.shape[1]
        means, variances = torch.stack(spreads).unbind(1)
        # A batch has one cell for each of its samples and features.
        batch_cells = [len(part) * features for part in sequences]
        cells = torch.tensor(batch_cells, dtype=torch.float64, device=mean.device)
        moments.instance.mean.merge(_pooled(cells, means))
        moments.instance.variance.merge(_pooled(cells, variances))
        moments.instance_likeness.merge(Likeness(*torch.stack(likenesses).double().sum(0)))
        moments.sequence.add(mean, variance)
        sequence_likeness = likeness(count * features, variance, covariance, moments.eps)
        moments.sequence_likeness.merge(Likeness(*sequence_likeness))
        moments.within_samples += torch.stack(within).sum(0)


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
            finite = size.isfinite()
            state.worst_error = max(state.worst_error, float(gap.where(finite, 0.0).max()))
            state.output_square += float(size.square().where(finite, 0.0).sum())
            state.output_size += int(finite.sum()) * features


class PivotSums:
    """Sums over cells (G, D) of many batches, each moved to the first pivot of its cell.

    Sums around a member of the cell lose no digits where the cell is constant. The number of sums,
    `rows`, is that in each batch: 2 (x alone) or 4 (x and y).
    """

    def __init__(self, rows: int, features: int, device: torch.device | str = "cpu") -> None:
        self._pivot, self._count = (
            torch.zeros(0, n, dtype=torch.float64, device=device) for n in (features, 1)
        )
        self._sums = torch.zeros(rows, 0, features, dtype=torch.float64, device=device)
        self._holes = False

    def add(self, new: CellSums) -> None:
        """Add the sums of one batch."""
        if self._holes or len(new.count) > len(self._pivot):
            self._meet(new.pivot, new.count)
        new.add_to(self._pivot, self._sums, self._count)

    def _meet(self, pivot: Tensor, count: Tensor) -> None:
        """Set the pivot of every cell that gets its first row now."""
        self._count, self._pivot = (grown(table, len(pivot)) for table in (self._count, self._pivot))
        self._sums = torch.stack([grown(table, len(pivot)) for table in self._sums])
        rows = self._count[: len(pivot)]
        # A cell that has rows keeps its pivot: its sums are around it.
        self._pivot[: len(pivot)] = pivot.double().where(rows == 0, self._pivot[: len(pivot)])
        # Cells that are still empty need a pivot from a later batch.
        self._holes = bool(((rows + count) == 0).any())

    def moments(self) -> Moments:
        """Return the moments of x, (G, D)."""
        mean, square = self._sums[:2] / self._count.clamp(min=1)
        # Rounding can make the difference slightly negative.
        m2 = (square - mean.square()).clamp_(min=0) * self._count
        return Moments(self._count.clone(), self._pivot + mean, m2)

    def co_moments(self) -> CoMoments:
        """Return the moments of x with the mean of y and their co-moment, (G, D) each."""
        mean, _, mean_y, product = self._sums / self._count.clamp(min=1)
        return CoMoments(self.moments(), mean_y, (product - mean * mean_y) * self._count)

    def clear(self) -> None:
        """Start again; the next rows set new pivots."""
        self._holes = True
        self._count.zero_()
        self._sums.zero_()


def _pooled(count: Tensor, spreads: Tensor) -> Spread:
    """Merge K parts of `count` (K,) numbers each into one spread.

    `spreads` (K, 4) has the mean, the sum of squares around it, the minimum and the maximum of each part.
    """
    mean, m2, low, high = spreads.double().T
    moments = Moments(count[:, None], mean[:, None], m2[:, None]).pool(0)
    return Spread(moments, low.min(), high.max())
