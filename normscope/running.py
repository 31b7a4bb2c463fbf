"""The way of a layer's batches into its moments: sums for every batch, their arithmetic now and then.

A forward waits for what is done here, so each element is read a few times only, and what then waits
to be read are sums around fixed members of their cells and a few numbers a token and a sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.accumulator import Accumulator
from normscope.alignment import Alignment
from normscope.batch_sums import BatchSums, Cells, CellSums
from normscope.moments import CoMoments, Labels, Likeness, Moments, Rows, Spread, grown
from normscope.scratch import Scratch

# The numbers of so many tokens wait at most.
WAITING = 1 << 16


class Running:
    """The batches of one layer on their way into its moments, which `read` completes."""

    def __init__(self, moments: Accumulator, scratch: Scratch | None = None) -> None:
        self._moments, self._scratch = moments, scratch or Scratch()
        features, device = moments.output.mean.shape[1], moments.output.mean.device
        self._cells = PivotSums(features, device)
        self._pivot, self._square, self._within = (
            torch.zeros(1, features, dtype=torch.float64, device=device) for _ in range(3)
        )
        self._tokens: list[tuple[Tensor, Tensor]] = []
        self._samples: list[_Summary] = []
        self._waiting = 0

    def update(self, rows: Rows, y: Tensor, where: Alignment, sizes: Tensor | None = None) -> Cells:
        """Add the rows of one batch, y (V, D) beside x; all rows of a sample at once.

        `sizes` (V, D) is |what the layer really gave|, where that is known. Returns the cells of x by
        sample, (samples of the batch, D).
        """
        self._moments.outliers.add(rows, sizes, where)  # `sizes` may be memory used again.
        if self._moments.words is not None and where.word is not None:
            self._moments.words.add(rows.x, where.word)
        return self.add(BatchSums.of(rows, y, where, self._scratch), where)

    def add(self, batch: BatchSums, where: Alignment) -> Cells:
        """Add the sums of one batch; return the cells of x by sample."""
        self._add_output(batch)
        self._cells.add(batch.position)
        self._tokens.append((batch.token, where.position.group))
        cells = batch.sample.read()
        self._within += cells.count.T @ cells.variance
        self._samples.append(_Summary.of(cells, self._moments.eps))
        self._waiting += len(batch.token)
        if self._waiting > WAITING:
            self.read()
        return cells

    def _add_output(self, batch: BatchSums) -> None:
        """Add the squares of y around a pivot, moved as those of x are."""
        if not self._waiting:
            self._pivot = batch.pivot
        apart, count = batch.pivot - self._pivot, len(batch.token)
        total = batch.position.sums[1].sum(0, keepdim=True)
        self._square += batch.square + apart * (2 * (total - batch.pivot * count) + apart * count)

    def read(self) -> Accumulator:
        """Return the moments of all that was added, until the next update."""
        if self._waiting:
            new = self._moments.empty()
            new.table = self._cells.take()
            new.output = self._output(new.table)
            new.within_samples, self._within = self._within, torch.zeros_like(self._within)
            self._read_tokens(new)
            self._read_samples(new)
            self._moments.merge(new)
            self._waiting = 0
        return self._moments

    def _output(self, table: CoMoments) -> Moments:
        """Return the moments of y per feature, (1, D): its mean is the table's."""
        by_feature = table.pool(0)
        count, mean = by_feature.x.count[:, :1], by_feature.mean_y
        m2 = self._square - count * (mean - self._pivot).square()
        self._square = torch.zeros_like(self._square)
        return Moments(count, mean, m2.clamp_(min=0))

    def _read_tokens(self, new: Accumulator) -> None:
        tokens = torch.cat([numbers for numbers, _ in self._tokens]).double()
        positions = Labels.of(torch.cat([position for _, position in self._tokens]))
        new.by_position = Moments.by_group(tokens, positions)
        new.token.add(tokens[:, 0], tokens[:, 1])
        self._tokens = []

    def _read_samples(self, new: Accumulator) -> None:
        means, variances, likeness, sequence = zip(*self._samples, strict=True)
        count, mean, variance, covariance = (
            torch.cat(values).double() for values in zip(*sequence, strict=True)
        )
        features = new.within_samples.shape[1]
        sizes = [len(part[0]) * features for part in sequence]
        new.instance.mean, new.instance.variance = _pooled(sizes, means), _pooled(sizes, variances)
        new.instance_likeness = Likeness(
            *(torch.stack(sums).double().sum() for sums in zip(*likeness, strict=True))
        )
        new.sequence.add(mean, variance)
        new.sequence_likeness = Likeness(*_likeness(count * features, variance, covariance, new.eps))
        self._samples = []


class PivotSums:
    """The sums over cells (G, D) of many batches: each batch's, moved to the first pivot that a cell had.

    So they are the same whatever came before, and lose nothing where a cell is constant.
    """

    def __init__(self, features: int, device: torch.device | str) -> None:
        self._pivot, self._count = (
            torch.zeros(0, n, dtype=torch.float64, device=device) for n in (features, 1)
        )
        self._sums = torch.zeros(4, 0, features, dtype=torch.float64, device=device)
        self._holes = False

    def add(self, new: CellSums) -> None:
        """Add the sums of one batch; their memory may be spent."""
        groups = len(new.count)
        if self._holes or groups > len(self._pivot):
            self._meet(new.pivot, new.count)
        self._sums[:, :groups] += new.around(self._pivot[:groups])
        self._count[:groups] += new.count

    def _meet(self, pivot: Tensor, count: Tensor) -> None:
        """Give every cell its pivot that has its first row now."""
        self._count, self._pivot = (grown(table, len(pivot)) for table in (self._count, self._pivot))
        self._sums = torch.stack([grown(table, len(pivot)) for table in self._sums])
        known = self._count[: len(pivot)]
        self._pivot[: len(pivot)] = pivot.where(known == 0, self._pivot[: len(pivot)])
        self._holes = bool(((known + count) == 0).any())

    def take(self) -> CoMoments:
        """Return the moments of what was added, and begin again."""
        count = self._count
        mean_x, mean_y, product, square = (self._sums / count.clamp(min=1)).unbind()
        m2 = (square - mean_x.square()).clamp_(min=0) * count
        co = (product - mean_x * mean_y) * count
        taken = CoMoments(Moments(count, self._pivot + mean_x, m2), mean_y, co)
        self._count, self._holes = torch.zeros_like(count), True
        self._sums.zero_()
        return taken


class _Summary(NamedTuple):
    """What is left of a batch's cells: of all their means and of all their variances how many, the mean,
    the squares around it, the least and the largest, the likeness of y to their normalization; and each
    sample's count, mean, variance, and covariance with y over all features, (B, 1)."""

    means: tuple[Tensor, ...]
    variances: tuple[Tensor, ...]
    likeness: tuple[Tensor, Tensor]
    sequence: tuple[Tensor, ...]

    @classmethod
    def of(cls, cells: Cells, eps: float) -> "_Summary":
        middle = cells.mean.mean(1, keepdim=True)
        apart = cells.mean - middle
        variance = cells.variance.mean(1, keepdim=True) + apart.square().mean(1, keepdim=True)
        covariance = cells.covariance.mean(1, keepdim=True) + apart.mul_(cells.mean_y).mean(1, keepdim=True)
        return cls(
            _spread(cells.mean),
            _spread(cells.variance),
            _likeness(cells.count, cells.variance, cells.covariance, eps),
            (cells.count, middle, variance, covariance),
        )


def _spread(values: Tensor) -> tuple[Tensor, ...]:
    mean = values.mean()
    return (mean, (values - mean).square_().sum(), *torch.aminmax(values))


def _pooled(counts: Sequence[int], parts: Sequence[tuple[Tensor, ...]]) -> Spread:
    """Return the spread of what several parts of so many numbers are the spreads of."""
    mean, m2, low, high = torch.stack([torch.stack(part) for part in parts]).double().unbind(1)
    count = torch.tensor(counts, dtype=torch.float64, device=mean.device)
    moments = Moments(count[:, None], mean[:, None], m2[:, None]).pool(0)
    return Spread(moments, low.min(), high.max())


def _likeness(count: Tensor, variance: Tensor, covariance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return sum(y z) and sum(z^2) over cells, each normalised by its own mean and variance."""
    scale = (variance + eps).rsqrt_()
    if not eps:  # A cell without any spread gives z = 0, as 0 / 0 would not.
        scale = scale.where(variance > 0, 0.0)
    weighted = count * scale
    return (weighted * covariance).sum(), (weighted * scale).mul_(variance).sum()
