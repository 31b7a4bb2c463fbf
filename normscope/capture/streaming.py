"""Buffers per-batch sums and folds them into a layer's moments.

A forward waits for what is done here, so each element is read a few times only, and what then waits
to be read are sums around fixed members of their cells and a few numbers a token and a sample.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from normscope.capture.backlog import Backlog
from normscope.capture.batch_sums import BatchSums, CellStatistics, CellSums
from normscope.capture.fused_sums import OnePass
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Scratch
from normscope.statistics.moments import CoMoments, Labels, Likeness, Moments, Rows, Spread, grown, likeness

# Tables over cells begin again after so many tokens, each cell around a pivot of its own time.
_TOKENS = 1 << 16


class StreamingMoments:
    """The batches of one layer on their way into its moments, which `read` completes."""

    def __init__(self, moments: Accumulator, scratch: Scratch | None = None) -> None:
        self._moments, self._scratch = moments, scratch or Scratch()
        features, device = moments.output.mean.shape[1], moments.output.mean.device
        self._table, self._output = (PivotSums(rows, features, device) for rows in (4, 2))
        self.tokens = moments.count
        """How many tokens were seen."""
        self._backlog = Backlog()
        self._summed = 0

    @property
    def eps(self) -> float:
        """The eps of the layer's cells."""
        return self._moments.eps

    def update(self, rows: Rows, y: Tensor, where: Alignment, sizes: Tensor | None = None) -> CellStatistics:
        """Add the rows of one batch, y (V, D) beside x; all rows of a sample at once.

        `sizes` (V, D) is |what the layer really gave|, where that is known. Returns the cells of x by
        sample, (samples of the batch, D).
        """
        self._moments.outliers.add(rows, sizes, where)  # `sizes` may be memory used again.
        if self._moments.words is not None and where.word is not None:
            self._moments.words.add(rows.x, where.word)
        sums, samples = BatchSums.of(rows, y, where, self._moments.eps, self._scratch)
        self.add(sums, where)
        return samples

    def add_pass(self, found: OnePass, x: Callable[[], Tensor], where: Alignment) -> None:
        """Add what one pass over a batch found; x (V, D) are its rows, if they have to be looked at."""
        self._moments.outliers.add_output(len(found.sums.token), found.large, found.largest)
        if found.massive:
            self._moments.outliers.add_massive(x(), where, found.massive)
        self.add(found.sums, where)

    def add(self, batch: BatchSums, where: Alignment) -> None:
        """Add the sums of one batch."""
        self._table.add(batch.position)
        self._output.add(batch.output)
        self._backlog.add(batch.token, where.position.group, *batch.samples)
        self._summed += len(batch.token)
        self.tokens += len(batch.token)
        if self._summed > _TOKENS:
            self.read()
        elif self._backlog.is_full:
            self._read_backlog()

    def read(self) -> Accumulator:
        """Return the moments of all that was added, until the next update."""
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
            self._read_tokens(torch.cat(tokens).double(), torch.cat(positions))
            self._read_samples(*samples)

    def _read_tokens(self, tokens: Tensor, positions: Tensor) -> None:
        self._moments.by_position.merge(Moments.by_group(tokens, Labels.of(positions)))
        self._moments.token.add(tokens[:, 0], tokens[:, 1])

    def _read_samples(
        self,
        spreads: tuple[Tensor, ...],
        alike: tuple[Tensor, ...],
        sequences: tuple[Tensor, ...],
        within: tuple[Tensor, ...],
    ) -> None:
        count, mean, variance, covariance = torch.cat(sequences).double().unbind(1)
        moments, features = self._moments, self._moments.within_samples.shape[1]
        cells = torch.tensor([len(part) * features for part in sequences], dtype=torch.float64)
        means, variances = torch.stack(spreads).unbind(1)
        cells = cells.to(mean.device)
        moments.instance.mean.merge(_pooled(cells, means))
        moments.instance.variance.merge(_pooled(cells, variances))
        moments.instance_likeness.merge(Likeness(*torch.stack(alike).double().sum(0)))
        moments.sequence.add(mean, variance)
        alike_texts = likeness(count * features, variance, covariance, moments.eps)
        moments.sequence_likeness.merge(Likeness(*alike_texts))
        moments.within_samples += torch.stack(within).sum(0)


class PivotSums:
    """The sums over cells (G, D) of many batches: each batch's, moved to the first pivot that a cell had.

    So they are the same whatever came before, and lose nothing where a cell is constant. There are as
    many `rows` of sums as the batches bring, 2 or 4.
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
        """Give every cell its pivot that has its first row now."""
        self._count, self._pivot = (grown(table, len(pivot)) for table in (self._count, self._pivot))
        self._sums = torch.stack([grown(table, len(pivot)) for table in self._sums])
        known = self._count[: len(pivot)]
        self._pivot[: len(pivot)] = pivot.double().where(known == 0, self._pivot[: len(pivot)])
        self._holes = bool(((known + count) == 0).any())

    def moments(self) -> Moments:
        """Return the moments of x in what was added, (G, D)."""
        mean, square = self._sums[:2] / self._count.clamp(min=1)
        m2 = (square - mean.square()).clamp_(min=0) * self._count
        return Moments(self._count.clone(), self._pivot + mean, m2)

    def co_moments(self) -> CoMoments:
        """Return the same with those of y beside it."""
        mean, _, mean_y, product = self._sums / self._count.clamp(min=1)
        return CoMoments(self.moments(), mean_y, (product - mean * mean_y) * self._count)

    def clear(self) -> None:
        """Begin again; the first rows to come give new pivots."""
        self._holes = True
        self._count.zero_()
        self._sums.zero_()


def _pooled(count: Tensor, spreads: Tensor) -> Spread:
    """Return the spread of what several parts, of so many numbers (K,), have the `spreads` (K, 4) of."""
    mean, m2, low, high = spreads.double().T
    moments = Moments(count[:, None], mean[:, None], m2[:, None]).pool(0)
    return Spread(moments, low.min(), high.max())
