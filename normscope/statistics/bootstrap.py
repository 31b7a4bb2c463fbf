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
    """Draw `count` of `count` texts with replacement, `draws` times.

    Returns how often each text was drawn, (draws, count) float64.
    """
    dice = torch.Generator().manual_seed(seed)
    drawn = torch.randint(max(count, 1), (draws, count), generator=dice)
    return torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(draws, count, dtype=torch.float64)
    )


def resamples(count: int, seed: int, draws: int = _DRAWS) -> Tensor:
    """Return the weights of `count` texts, (1 + draws, count): all 1 in row 0, then those of `weights`."""
    return torch.cat([torch.ones(1, count, dtype=torch.float64), weights(count, seed, draws)])


def interval(value: float, replicates: Tensor, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Return the value with its 95 % interval, from the spread of the replicates (draws,).

    The ends are clamped to `least` and `most`, the smallest and largest possible value. There is no
    interval if fewer than half of the replicates are finite.

    The spread is taken around the mean of the replicates, not around the value. A replicate contains some
    texts twice, which biases metrics that count groups or squares. The spread alone shows how far the
    value may be from that of other texts.
    """
    known = replicates[replicates.isfinite()]
    if len(known) < len(replicates) / 2 or not len(known):
        return Interval(value)
    tail = (1 - COVERAGE) / 2
    low, high = torch.quantile(known - known.mean(), torch.tensor([tail, 1 - tail], dtype=known.dtype))
    low, high = (min(max(value + float(end), least), most) for end in (low, high))
    return Interval(value, low, high)
