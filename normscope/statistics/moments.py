"""Moments that can be updated, merged in any order, and read.

A statistic stores counts, means and sums of centred products, and divides only when it is
read. Two parts are merged by the pairwise formula of Chan, Golub & LeVeque (1979), "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", STAN-CS-79-773; within one
part the sums are taken around a member of the part or around its mean, so a mean of 1e8 with a
variance of 1 loses no precision. Stored values are float64; within a part the shifted sums are
taken in the dtype of its values, at least float32. Merging an empty part changes nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from normscope.statistics.buffers import Scratch

# A float32 sum of more rows than this would lose significant digits.
_MANY_ROWS = 128


@dataclass(frozen=True)
class Labels:
    """The group of each of V rows, as a number from 0 to G - 1, and tables of the groups.

    `group` (V,) is each row's group. `count` (G, 1) float64 is the number of rows per group. `pivot` (G,)
    is a row from the middle of each group. `many` says whether any group has too many rows for a float32
    sum. `order` (V,) lists the rows group by group, and `start` (G,) is where each group begins in it.
    """

    group: Tensor
    count: Tensor
    pivot: Tensor
    many: bool
    order: Tensor
    start: Tensor

    @classmethod
    def of(cls, group: Tensor) -> "Labels":
        """Count the groups of rows labelled 0, 1, ... by `group` (V,)."""
        count, order = torch.bincount(group), group.argsort(stable=True)
        start = count.cumsum(0) - count
        middle = (start + count // 2).clamp(max=max(len(group) - 1, 0))
        pivot = order[middle] if len(group) else middle
        many = len(count) > 0 and int(count.max()) > _MANY_ROWS
        return cls(group, count.double()[:, None], pivot, many, order, start)

    def sums(self, values: Tensor) -> Tensor:
        """Sum the rows of `values` (V, D) by group into (G, D).

        The result has the dtype of `values`, or float64 if a group has many rows.
        """
        values = values.double() if self.many else values
        # Three times as fast as adding row by row: a group's sum stays in the processor's registers.
        return embedding_bag(self.order, values.contiguous(), self.start, mode="sum")

    def means(self, values: Tensor) -> Tensor:
        """Average the rows of `values` (V, D) by group into (G, D) float64; 0 for an empty group."""
        return self.sums(values).double() / self.count.clamp(min=1)

    def shifted(self, values: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Subtract its group's pivot from each row: return (V, D), in `out` or new, and the pivots (G, D).

        Sums of squares around a member of the group lose few digits, and none if the group is constant,
        as the first token of a corpus often is. The member is from the middle, because the first and last
        tokens of a text are often far from all others.
        """
        pivot = values.index_select(0, self.pivot)
        own = torch.index_select(pivot, 0, self.group, out=out)
        return torch.sub(values, own, out=own), pivot


def _weights(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return the merged count, and the share of `new` in it, which is 0 for an empty cell."""
    total = old + new
    return total, new / total.clamp(min=1)


@dataclass
class Moments:
    """Count, mean and M2 (sum of squared deviations) of a table of cells.

    `mean` and `m2` have one shape, (G, D) for G groups of D-vectors; `count` broadcasts to it.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def empty(cls, groups: int, features: int, device: torch.device | str = "cpu") -> "Moments":
        """Return empty moments, (groups, features)."""
        zeros = torch.zeros(groups, features, dtype=torch.float64, device=device)
        return cls(zeros[:, :1].clone(), zeros, zeros.clone())

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """Return the moments of all rows of `values` (V, D) as one group, (1, D)."""
        count = torch.full((1, 1), values.shape[0], dtype=torch.float64, device=values.device)
        mean = values.sum(0, keepdim=True).double() / count.clamp(min=1)
        return cls(count, mean, (values - mean.to(values.dtype)).square_().sum(0, keepdim=True).double())

    @classmethod
    def by_group(cls, values: Tensor, labels: Labels) -> "Moments":
        """Return the moments of the rows of `values` (V, D) by group, (G, D)."""
        moved, shift = labels.shifted(values)
        mean = labels.means(moved)
        m2 = labels.sums(moved.square_()).double() - labels.count * mean.square()
        return cls(labels.count.clone(), shift.double() + mean, m2.clamp_(min=0))

    def merge(self, new: "Moments") -> None:
        """Add `new`; its groups are the first groups of this table, which grows if `new` has more."""
        self.grow(new.mean.shape[0])
        count, mean, m2 = (old[: len(new.mean)] for old in (self.count, self.mean, self.m2))
        total, share = _weights(count, new.count)
        delta = new.mean - mean
        mean.addcmul_(delta, share)
        m2.add_(new.m2).addcmul_(delta.square_(), count * share)
        count.copy_(total)

    def grow(self, groups: int) -> None:
        """Grow the table to at least `groups` groups; the added groups are empty."""
        for name in ("count", "mean", "m2"):
            setattr(self, name, grown(getattr(self, name), groups))

    def take(self, groups: Tensor) -> "Moments":
        """Return a copy of the `groups` (N,), in that order, (N, D)."""
        return Moments(*(table.index_select(0, groups) for table in (self.count, self.mean, self.m2)))

    def put(self, groups: Tensor, new: "Moments") -> None:
        """Replace the `groups` (N,), each listed once, by the groups of `new` (N, D)."""
        for table, values in zip(
            (self.count, self.mean, self.m2), (new.count, new.mean, new.m2), strict=True
        ):
            table.index_copy_(0, groups, values)

    def to(self, device: torch.device | str) -> "Moments":
        """Return the moments on this device; tensors that are already there are not copied."""
        return Moments(self.count.to(device), self.mean.to(device), self.m2.to(device))

    def pool(self, dim: int) -> "Moments":
        """Merge all cells along `dim` into one: over groups (0) or over features (1)."""
        count = self.count.expand_as(self.mean)
        total = count.sum(dim, keepdim=True)
        mean = (count * self.mean).sum(dim, keepdim=True) / total.clamp(min=1)
        between = count * (self.mean - mean).square()
        return Moments(total, mean, (self.m2 + between).sum(dim, keepdim=True))

    def variance(self) -> Tensor:
        """Return the biased variance M2 / count, NaN where there is no data."""
        return self.m2 / self.count.where(self.count > 0, torch.nan)

    def known_mean(self) -> Tensor:
        """Return the mean, NaN where there is no data."""
        return self.mean.where(self.count > 0, torch.nan)


def mean_shares(mean: Tensor, variance: Tensor) -> Moments:
    """Return the moments, (1, 1), of mean^2 / (mean^2 + variance) over tokens; tokens of zeros are left out.

    `mean` and `variance` (V,) are each token's own, float64.
    """
    square = mean.square() + variance
    return Moments.of((mean.square() / square)[square > 0][:, None])


def grown(table: Tensor, groups: int) -> Tensor:
    """Return `table` with zero rows appended until it has `groups` rows; a larger table stays unchanged."""
    missing = groups - table.shape[0]
    return table if missing <= 0 else torch.cat([table, table.new_zeros(missing, *table.shape[1:])])


@dataclass
class CoMoments:
    """Moments of x per cell, the mean of a paired y, and their co-moment sum((x - mean_x) y).

    x is the input of a layer, y the layer's own normalization of it. The co-moment gives the cosine
    between y and any other normalization of x without a second pass.
    """

    x: Moments
    mean_y: Tensor
    co: Tensor

    @classmethod
    def empty(cls, groups: int, features: int, device: torch.device | str = "cpu") -> "CoMoments":
        """Return empty co-moments, (groups, features)."""
        x = Moments.empty(groups, features, device)
        return cls(x, x.mean.clone(), x.mean.clone())

    def merge(self, new: "CoMoments") -> None:
        """Add `new`; its groups are the first groups of this table, which grows if `new` has more."""
        groups = new.co.shape[0]
        self.mean_y, self.co = grown(self.mean_y, groups), grown(self.co, groups)
        self.x.grow(groups)
        count, mean_y = self.x.count[:groups], self.mean_y[:groups]
        _, share = _weights(count, new.x.count)
        delta_x, delta_y = new.x.mean - self.x.mean[:groups], new.mean_y - mean_y
        mean_y.addcmul_(delta_y, share)
        self.co[:groups].add_(new.co).addcmul_(delta_x.mul_(delta_y), count * share)
        self.x.merge(new.x)

    def pool(self, dim: int) -> "CoMoments":
        """Merge all cells along `dim` into one: over groups (0) or over features (1)."""
        x, count = self.x.pool(dim), self.x.count.expand_as(self.x.mean)
        mean_y = (count * self.mean_y).sum(dim, keepdim=True) / x.count.clamp(min=1)
        between = count * (self.x.mean - x.mean) * (self.mean_y - mean_y)
        return CoMoments(x, mean_y, (self.co + between).sum(dim, keepdim=True))


@dataclass
class Spread:
    """Moments of many scalars, with their minimum and maximum."""

    moments: Moments
    low: Tensor
    high: Tensor

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "Spread":
        """Return the spread of no values."""
        infinite = torch.full((), torch.inf, dtype=torch.float64, device=device)
        return cls(Moments.empty(1, 1, device), infinite, -infinite)

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """Return the spread of all elements of `values`."""
        if values.numel() == 0:
            return cls.empty(values.device)
        low, high = torch.aminmax(values)
        return cls(Moments.of(values.reshape(-1, 1).double()), low.double(), high.double())

    def merge(self, new: "Spread") -> None:
        """Add `new`."""
        self.moments.merge(new.moments)
        self.low, self.high = torch.minimum(self.low, new.low), torch.maximum(self.high, new.high)


@dataclass
class Likeness:
    """The running sums behind a cosine between y and z(view): sum(y z) and sum(z^2)."""

    product: Tensor
    square: Tensor

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> "Likeness":
        """Return the sums over no cells."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(zero, zero.clone())

    @classmethod
    def of(cls, cells: CoMoments, eps: float) -> "Likeness":
        """Return the sums over cells, each normalised as z = (x - mean) / sqrt(variance + eps)."""
        count = cells.x.count.clamp(min=1)
        return cls(*likeness(count, cells.x.m2 / count, cells.co / count, eps))

    def merge(self, new: "Likeness") -> None:
        """Add `new`."""
        self.product = self.product + new.product
        self.square = self.square + new.square


def likeness(count: Tensor, variance: Tensor, covariance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return sum(y z) and sum(z^2) over cells, each normalised by its own mean and variance."""
    scale = (variance + eps).rsqrt_()
    if not eps:  # Without eps, a cell of zero variance gives z = 0, not 0 / 0.
        scale = scale.where(variance > 0, 0.0)
    weighted = count * scale
    return (weighted * covariance).sum(), (weighted * scale).mul_(variance).sum()


@dataclass
class Rows:
    """Tokens as rows x (V, D), with each row's own mean and biased variance, both (V, 1).

    `centred` (V, D) is x minus its row's mean.
    """

    x: Tensor
    mean: Tensor
    centred: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: Tensor, scratch: Scratch | None = None) -> "Rows":
        """Compute the mean and variance of each row; x minus its mean goes into `scratch` memory, or new."""
        # Half precision is too coarse for means and sums of squares.
        x = x if x.dtype == torch.float64 else x.float()
        mean = x.mean(1, keepdim=True)
        centred = torch.sub(x, mean, out=None if scratch is None else scratch.block("centred", x))
        norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
        return cls(x, mean, centred, norm.square_() / max(1, x.shape[1]))

    @cached_property
    def reach(self) -> float:
        """An upper bound on all |x|, not finite if any row is not: the one number that the host waits for."""
        return float(self.bounds().amax()) if len(self.x) else 0.0

    def bounds(self) -> Tensor:
        """Return an upper bound on each row's |x|, (V,): |mean| plus the norm of the centred row."""
        return self.variance.mul(self.x.shape[1]).sqrt_().add_(self.mean.abs()).squeeze(1)

    def finite(self) -> Tensor:
        """Return which rows have no NaN or infinity, (V,) bool; one such element spoils a row's variance."""
        return self.variance.isfinite().squeeze(1)
