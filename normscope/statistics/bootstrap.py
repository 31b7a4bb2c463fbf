"""The bootstrap over texts: intervals that are seeded and repeatable.

Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1).
"""

import math

import torch
from torch import Tensor

from normscope.results.why import Interval

_DRAWS = 200
COVERAGE = 0.95


def weights(count: int, seed: int, draws: int = _DRAWS) -> Tensor:
    """Draw `count` of `count` texts with replacement: how often each was drawn, (draws, count) float64."""
    dice = torch.Generator().manual_seed(seed)
    drawn = torch.randint(max(count, 1), (draws, count), generator=dice)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(draws, count, dtype=torch.float64)
    )


def resamples(count: int, seed: int, draws: int = _DRAWS) -> Tensor:
    """Say how often each of `count` texts counts, (1 + draws, count): once, then as in `weights`."""
    return torch.cat([torch.ones(1, count, dtype=torch.float64), weights(count, seed, draws)])


def interval(value: float, replicates: Tensor, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Return the value with the spread of its replicates (draws,) around their mean.

    The interval stays between the `least` and the `most` that the number can be.

    Around their mean, since a replicate holds some texts twice, which biases what counts groups or
    squares; the spread is what tells how far the value may be from that of other texts.
    """
    known = replicates[replicates.isfinite()]
    if len(known) < len(replicates) / 2 or not len(known):
        return Interval(value)
    tail = (1 - COVERAGE) / 2
    low, high = torch.quantile(known - known.mean(), torch.tensor([tail, 1 - tail], dtype=known.dtype))
    low, high = (min(max(value + float(end), least), most) for end in (low, high))
    return Interval(value, low, high)
