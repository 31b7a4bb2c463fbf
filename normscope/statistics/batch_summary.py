"""The summary of one batch at one layer: its sums, its outliers and the error of its formula."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Scratch
from normscope.statistics.extremes import Peaks
from normscope.statistics.moments import Labels, Moments, Rows, likeness
from normscope.statistics.outliers import BatchOutliers


@dataclass(frozen=True)
class CellSums:
    """Sums over cells (G, D) of rows x and their paired y, in float64.

    With q the `pivot` (G, D) of each cell, which is one of its rows x, `sums` (4, G, D) are the sums of
    x - q, (x - q)^2, y and (x - q) y over the `count` (G, 1) rows. Around such a pivot no digits are lost
    where a cell is constant. Without y, there are only the first two sums.
    """

    count: Tensor
    pivot: Tensor
    sums: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, labels: Labels, scratch: Scratch) -> "CellSums":
        """Sum rows x and y (V, D) by the cells of `labels`."""
        moved, pivot = labels.shifted(x, scratch.block("first", x))
        both = torch.mul(moved, y, out=scratch.block("second", y))
        others = [labels.sums(values) for values in (y, both)]
        sums = torch.stack([labels.sums(moved), labels.sums(moved.square_()), *others])
        return cls(labels.count, pivot.double(), sums.double())

    @classmethod
    def of_one(cls, x: Tensor, scratch: Scratch) -> "CellSums":
        """Sum rows x (V, D) as one cell, without y."""
        # From the middle: the first and the last row of a text are often far from all others.
        pivot = x[len(x) // 2 :][:1]
        moved = torch.sub(x, pivot, out=scratch.block("first", x))
        sums = torch.stack([moved.sum(0, keepdim=True), moved.square_().sum(0, keepdim=True)])
        count = sums.new_full((1, 1), len(x), dtype=torch.float64)
        # A copy: without one, a float64 pivot would be a view of x, which may be overwritten.
        return cls(count, pivot.to(torch.float64, copy=True), sums.double())

    def add_to(self, pivot: Tensor, sums: Tensor, count: Tensor) -> None:
        """Add these sums to the first cells of other sums (2 or 4, G, D), around their `pivot` p (G, D).

        sum (x - p)^2 = sum (x - q)^2 + 2 (q - p) sum (x - q) + n (q - p)^2; the products likewise.
        """
        groups = len(self.pivot)
        count[:groups] += self.count
        sums = sums[:, :groups]
        offset = self.pivot - pivot[:groups]
        shift = offset * self.count
        sums += self.sums
        sums[0] += shift
        sums[1].addcmul_(offset, torch.add(shift, self.sums[0], alpha=2))
        if len(sums) == 4:
            sums[3].addcmul_(offset, self.sums[2])

    def read(self) -> "CellStatistics":
        """Return the statistics of each cell."""
        mean, square, mean_y, product = (self.sums / self.count.clamp(min=1)).unbind()
        covariance = product.addcmul_(mean, mean_y, value=-1)
        # Rounding can make a variance slightly negative.
        variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0)
        return CellStatistics(self.count, mean + self.pivot, variance, mean_y, covariance)


@dataclass(frozen=True)
class CellStatistics:
    """By cell: the count (G, 1); the mean and variance of x, the mean of y, their covariance (G, D)."""

    count: Tensor
    mean: Tensor
    variance: Tensor
    mean_y: Tensor
    covariance: Tensor

    def moments(self) -> Moments:
        """Return the moments of x."""
        return Moments(self.count, self.mean, self.variance * self.count)


class SampleSummary(NamedTuple):
    """Summary of the samples of a batch, which are B cells of D features.

    `spread` (2, 4) has one row for the means of all cells and one for their variances. Each row is a mean,
    the sum of squares around it, the minimum and the maximum. `likeness` (2,) is sum(y z) and sum(z^2),
    where z is x normalized by its own cell. `sequence` (B, 4) has for each sample the count of rows and,
    over all their elements, the mean and variance of x and its covariance with y. `within` (1, D) is
    the sum of squares around the mean of each sample.
    """

    spread: Tensor
    likeness: Tensor
    sequence: Tensor
    within: Tensor

    @classmethod
    def of(cls, cells: CellStatistics, eps: float) -> "SampleSummary":
        """Summarise the cells, in float64."""
        middle = cells.mean.mean(1, keepdim=True)
        deviation = cells.mean - middle
        variance = cells.variance.mean(1, keepdim=True) + deviation.square().mean(1, keepdim=True)
        products = deviation.mul_(cells.mean_y)
        covariance = cells.covariance.mean(1, keepdim=True) + products.mean(1, keepdim=True)
        return cls(
            torch.stack([_spread(cells.mean), _spread(cells.variance)]),
            torch.stack(likeness(cells.count, cells.variance, cells.covariance, eps)),
            torch.cat([cells.count, middle, variance, covariance], dim=1),
            cells.count.T @ cells.variance,
        )


def _spread(values: Tensor) -> Tensor:
    mean = values.mean()
    return torch.stack([mean, (values - mean).square_().sum(), *torch.aminmax(values)])


class BatchSums(NamedTuple):
    """The sums of one batch of V rows x with D features, and of their y.

    `token` (V, 2) is the mean and variance of each row, and `group` (V,) its position or bin. `position`
    has the sums of x and y by position, and `output` the sums of y by feature, as one cell. `eps` is that
    of the normalization by sample. The compiled loops reuse the memory of `position` and `output`.
    """

    token: Tensor
    group: Tensor
    position: CellSums
    output: CellSums
    samples: SampleSummary
    eps: float

    @classmethod
    def of(
        cls, rows: Rows, y: Tensor, where: Alignment, eps: float, scratch: Scratch
    ) -> "tuple[BatchSums, CellStatistics]":
        """Sum rows x and y (V, D); also return the statistics of x and y by sample."""
        samples = CellSums.of(rows.x, y, where.sample, scratch).read()
        sums = cls(
            torch.cat([rows.mean, rows.variance], dim=1),
            where.position.group,
            CellSums.of(rows.x, y, where.position, scratch),
            CellSums.of_one(y, scratch),
            SampleSummary.of(samples, eps),
            eps,
        )
        return sums, samples


class OutputErrors(NamedTuple):
    """The gaps between a layer's output and that of its formula, in K groups of `elements` elements each.

    `gap` (K,) is the maximum of |affine(y) - output|, and `norm` (K,) the norm of the output, which is not
    finite where the output is not. `precision` is the eps of the output's dtype.
    """

    gap: Tensor
    norm: Tensor
    elements: int
    precision: float

    @classmethod
    def of(cls, expected: Tensor, out: Tensor) -> "OutputErrors":
        """Compare rows (V, D), of which each is a group; `expected` is overwritten."""
        norm = torch.linalg.vector_norm(out.to(expected.dtype), dim=1)
        gap = expected.sub_(out).abs_().amax(1)  # A norm of order infinity takes ten times as long.
        return cls(gap, norm, out.shape[1], torch.finfo(out.dtype).eps)


class BatchSummary(NamedTuple):
    """Everything that one batch, or one part of it, leaves behind at a layer.

    `nonfinite` is the number of rows that were left out; `sums` is None if no row is left. `inputs`
    and `outputs` have the largest values of x and of the output. `errors` is None if no formula fits;
    `errors` and `outputs` are None if the output is unknown.
    """

    nonfinite: int
    sums: BatchSums | None
    outliers: BatchOutliers | None = None
    inputs: Peaks | None = None
    outputs: Peaks | None = None
    errors: OutputErrors | None = None
