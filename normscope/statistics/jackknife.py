"""Delete-a-group jackknife over texts: intervals without a random seed.

Tukey 1958, "Bias and confidence in not-quite large samples", Annals of Mathematical Statistics 29;
delete-a-group form: Kott 2001, "The delete-a-group jackknife", Journal of Official Statistics 17(4).

No text counts twice in a replicate. The bootstrap puts copies of a text into one batch where batches hold
texts of equal length, and so makes them look alike.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from normscope.results.why import Interval
from normscope.statistics.bootstrap import COVERAGE

GROUPS = 32


def groups_of(count: int, groups: int = GROUPS) -> Tensor:
    """Return the group of each of `count` texts, (count,) from 0; there are no more groups than texts.

    A group is a run of neighbouring texts, of equal size but for one text: neighbours are often of one
    source, and alike. Where they are not, such groups are as good as random ones.
    """
    return torch.arange(count) * min(groups, count) // max(count, 1)


def replicates(group: Tensor) -> Tensor:
    """Return which texts each replicate uses, (1 + groups, count) float64 of 0 and 1.

    Row 0 uses all texts; each other row leaves out one `group` (count,).
    """
    left_out = group[None] == torch.arange(-1, int(group.max()) + 1)[:, None]
    return (~left_out).double()


def interval(
    values: Tensor, minimum: float = -math.inf, maximum: float = math.inf, *, log: bool = False
) -> Interval:
    """Return the first of `values` (1 + groups,) with its 95 % interval from the others, its replicates.

    The interval is symmetric: Student's t with groups - 1 degrees of freedom times the standard error.
    With `log` it is symmetric on the logarithmic scale, for ratios. Its ends are clamped to `minimum` and
    `maximum`. There is no interval where a replicate is not finite, or without two of them.
    """
    value, groups = float(values[0]), len(values) - 1
    known = values.log() if log else values
    if groups < 2 or not bool(known.isfinite().all()):
        return Interval(value)
    spread = float((known[1:] - known[1:].mean()).square().sum())
    half = student(groups - 1) * math.sqrt((groups - 1) / groups * spread)
    low, high = float(known[0]) - half, float(known[0]) + half
    low, high = (math.exp(low), math.exp(high)) if log else (low, high)
    return Interval(value, min(max(low, minimum), value), max(min(high, maximum), value))


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b for numbers of two independent samples, (1 + groups of a + groups of b,).

    In each replicate one group of one of the samples is left out (the two-sample jackknife).
    """
    return torch.cat([a / b[0], a[0] / b[1:]])


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b for numbers of two independent samples, as `quotient` does a / b."""
    return torch.cat([a - b[0], a[0] - b[1:]])


def student(freedom: int, coverage: float = COVERAGE) -> float:
    """Return the two-sided quantile of Student's t: Abramowitz & Stegun 1964, formula 26.7.5.

    1 and 2 degrees of freedom, where that series is off by over 0.5 %, have closed forms.
    """
    if freedom == 1:
        return math.tan(math.pi * coverage / 2)
    if freedom == 2:
        return coverage * math.sqrt(2 / (1 - coverage**2))
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))
