"""Sums of batches that wait to be folded into a layer's moments.

A forward waits for this work, so each element is read only a few times. The buffers hold sums around a
fixed member of each cell, and a few numbers for each token and each sample.
"""

import torch
from torch import Tensor

from normscope.statistics.accumulator import Accumulator
from normscope.statistics.batch_summary import BatchSums, CellSums
from normscope.statistics.buffers import Backlog
from normscope.statistics.moments import (
    CoMoments,
    Labels,
    Likeness,
    Moments,
    Spread,
    grown,
    likeness,
    mean_shares,
)

# After this many tokens the sums over cells are folded and start again, with a new pivot in each cell.
_TOKENS = 1 << 16


class PendingSums:
    """The sums of batches of one layer; `flush` folds them into its moments."""

    def __init__(self, moments: Accumulator) -> None:
        self._moments = moments
        features, device = moments.features, moments.output.mean.device
        # The table has sums of x and y by position; the output has sums of y alone.
        self._table, self._output = (PivotSums(rows, features, device) for rows in (4, 2))
        self.tokens = moments.count
        """The number of tokens so far, those in the moments included."""
        self._backlog = Backlog()
        self._summed = 0

    def add(self, batch: BatchSums) -> None:
        """Add the sums of one batch."""
        self._table.add(batch.position)
        self._output.add(batch.output)
        self._backlog.add(batch.token, batch.group, *batch.samples)
        self._summed += len(batch.token)
        self.tokens += len(batch.token)
        # With a pivot far from the mean, more and more digits of the sums would be lost.
        if self._summed > _TOKENS:
            self.flush()
        # The backlog alone: sums over cells do not grow with the number of batches.
        elif self._backlog.is_full:
            self._flush_backlog()

    def flush(self) -> None:
        """Fold all sums into the moments, which are then complete until the next batch."""
        if self._summed:
            self._moments.table.merge(self._table.co_moments())
            self._moments.output.merge(self._output.moments())
            self._table.clear()
            self._output.clear()
            self._summed = 0
        self._flush_backlog()

    def _flush_backlog(self) -> None:
        if self._backlog:
            tokens, positions, *samples = self._backlog.take()
            # In float64 from here on, because these moments run over the whole corpus.
            self._fold_tokens(torch.cat(tokens).double(), torch.cat(positions))
            self._fold_samples(*samples)

    def _fold_tokens(self, tokens: Tensor, positions: Tensor) -> None:
        self._moments.by_position.merge(Moments.by_group(tokens, Labels.of(positions)))
        self._moments.variances.add(tokens[:, 1], positions)
        self._moments.token.add(tokens[:, 0], tokens[:, 1])
        self._moments.mean_share.merge(mean_shares(*tokens.T))

    def _fold_samples(
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
