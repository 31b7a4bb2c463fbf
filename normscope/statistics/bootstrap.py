"""The bootstrap over texts: intervals that are seeded and repeatable.

Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1).
"""

import torch
from torch import Tensor

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
