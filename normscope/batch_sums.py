"""What is left of a layer's batch: sums over its positions and over its samples, and a few numbers a token."""

from typing import NamedTuple

import torch
from torch import Tensor

from normscope.alignment import Alignment
from normscope.moments import Labels, Moments, Rows
from normscope.scratch import Scratch


class CellSums(NamedTuple):
    """Sums over cells (G, D) of paired rows x and y, float64.

    With q the `pivot` (G, D) of each cell, one of its own rows x, `sums` (4, G, D) are those of x - q,
    y, (x - q) y and (x - q)^2 over the `count` (G, 1) rows: so nothing is lost where a cell is constant.
    """

    count: Tensor
    pivot: Tensor
    sums: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, labels: Labels, scratch: Scratch) -> "CellSums":
        """Take them of rows x and y (V, D)."""
        moved, pivot = labels.shifted(x, scratch.block("first", x))
        both = torch.mul(moved, y, out=scratch.block("second", y))
        sums = [labels.sums(values) for values in (moved, y, both)]
        return cls(labels.count, pivot.double(), torch.stack([*sums, labels.sums(moved.square_())]).double())

    def around(self, pivot: Tensor) -> Tensor:
        """Return the sums with another pivot p (G, D) in place of q; the memory may be that of these.

        sum (x - p)^2 = sum (x - q)^2 + 2 (q - p) sum (x - q) + n (q - p)^2, and alike the products.
        """
        apart = self.pivot - pivot
        shift = apart * self.count
        self.sums[2:].addcmul_(apart, torch.stack([self.sums[1], torch.add(shift, self.sums[0], alpha=2)]))
        self.sums[0] += shift
        return self.sums

    def read(self) -> "Cells":
        """Return what the sums tell of each cell."""
        mean, mean_y, product, square = (self.sums / self.count.clamp(min=1)).unbind()
        covariance = product.addcmul_(mean, mean_y, value=-1)
        variance = square.addcmul_(mean, mean, value=-1).clamp_(min=0)
        return Cells(self.count, mean + self.pivot, variance, mean_y, covariance)


class Cells(NamedTuple):
    """The mean and variance of x, the mean of y, and their covariance, by cell: (G, 1), and (G, D) each."""

    count: Tensor
    mean: Tensor
    variance: Tensor
    mean_y: Tensor
    covariance: Tensor

    def moments(self) -> Moments:
        """Return the moments of x."""
        return Moments(self.count, self.mean, self.variance * self.count)


class BatchSums(NamedTuple):
    """The sums of one batch of V rows with D features.

    `token` (V, 2) is each row's own mean and variance. `square` (1, D) is the sum of (y - q)^2 with q
    the `pivot` (1, D), float64.
    """

    token: Tensor
    position: CellSums
    sample: CellSums
    pivot: Tensor
    square: Tensor

    @classmethod
    def of(cls, rows: Rows, y: Tensor, where: Alignment, scratch: Scratch) -> "BatchSums":
        """Take them of rows x and y (V, D)."""
        pivot = y[len(y) // 2 :][:1]
        moved = torch.sub(y, pivot, out=scratch.block("first", y))
        square = moved.square_().sum(0, keepdim=True).double()
        return cls(
            torch.cat([rows.mean, rows.variance], dim=1),
            CellSums.of(rows.x, y, where.position, scratch),
            CellSums.of(rows.x, y, where.sample, scratch),
            pivot.to(torch.float64, copy=True),  # y may be in memory that is used again.
            square,
        )
