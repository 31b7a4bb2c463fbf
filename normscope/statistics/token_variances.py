"""Range and histogram, by position, of the variances that LayerNorm gives the tokens."""

import torch
from torch import Tensor

# Bins of the histogram: eight of equal width in each octave, from 2^-24 to 2^24; the first and the last
# also hold what is beyond. They are the exponent and three bits of the fraction of a float32.
_OCTAVES, _BITS = 24, 3
BINS = 2 * _OCTAVES << _BITS
_SHIFT, _FIRST = 23 - _BITS, (127 - _OCTAVES) << _BITS


class TokenVariances:
    """By position: the minimum and maximum, (T, 1), and the `histogram` (T, 384), of the tokens' variances.

    Minimum and maximum are NaN, and the histogram is empty, for a part from a file of an earlier version.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.low, self.high = (torch.zeros(0, 1, dtype=torch.float64, device=device) for _ in range(2))
        self.histogram = torch.zeros(0, BINS, dtype=torch.int32, device=device)

    @classmethod
    def unknown(cls, positions: int) -> "TokenVariances":
        """Return the variances of `positions` positions of which nothing is known."""
        unknown = cls()
        unknown._grow(positions)
        unknown.low, unknown.high = (torch.full((positions, 1), torch.nan).double() for _ in range(2))
        return unknown

    def add(self, variances: Tensor, positions: Tensor) -> None:
        """Add tokens with these variances and positions, both (V,)."""
        self._grow(int(positions.max()) + 1)
        values = variances.double()
        self.low[:, 0].scatter_reduce_(0, positions, values, "amin")
        self.high[:, 0].scatter_reduce_(0, positions, values, "amax")
        cells = positions * BINS + _bins(variances)
        ones = torch.ones_like(cells, dtype=torch.int32)
        self.histogram.view(-1).index_add_(0, cells, ones)

    def merge(self, new: "TokenVariances") -> None:
        """Add `new`."""
        rows = len(new.low)
        self._grow(rows)
        self.low[:rows] = torch.minimum(self.low[:rows], new.low)
        self.high[:rows] = torch.maximum(self.high[:rows], new.high)
        self.histogram[:rows] += new.histogram

    def far(self, variance: float) -> Tensor:
        """Return the share of the tokens at each position, (T,), over twice or under half this variance.

        Within the two bins that hold these limits, the tokens count as evenly spread. It is NaN where
        nothing is known, and for a variance near the ends of the histogram.
        """
        counts = self.histogram.double()
        total = counts.sum(1)
        limits = torch.tensor([variance / 2, variance * 2], dtype=torch.float32)
        if not bool(((limits > 2.0**-_OCTAVES) & (limits < 2.0**_OCTAVES)).all()):
            return torch.full_like(total, torch.nan)
        half, twice = (_count_below(counts, float(limit)) for limit in limits)
        return (half + total - twice) / total.where(total > 0, torch.nan)

    def _grow(self, positions: int) -> None:
        missing = positions - len(self.low)
        if missing > 0:
            infinite = self.low.new_full((missing, 1), torch.inf)
            self.low, self.high = torch.cat([self.low, infinite]), torch.cat([self.high, -infinite])
            self.histogram = torch.cat([self.histogram, self.histogram.new_zeros(missing, BINS)])


def _bins(variances: Tensor) -> Tensor:
    """Return the bin of each variance, int64."""
    bits = variances.float().contiguous().view(torch.int32) >> _SHIFT
    return (bits.long() - _FIRST).clamp_(0, BINS - 1)


def _count_below(counts: Tensor, limit: float) -> Tensor:
    """Return how many tokens are below a limit, (T,), with its own bin divided evenly."""
    bits = torch.tensor(limit, dtype=torch.float32)
    own = int(_bins(bits[None]))
    low, high = (_edge(own + step) for step in (0, 1))
    return counts[:, :own].sum(1) + counts[:, own] * ((limit - low) / (high - low))


def _edge(number: int) -> float:
    """Return the lower limit of a bin."""
    octave, eighth = divmod(number, 1 << _BITS)
    return 2.0 ** (octave - _OCTAVES) * (1 + eighth / (1 << _BITS))
