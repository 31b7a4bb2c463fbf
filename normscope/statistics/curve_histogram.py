"""Two-dimensional histogram of a layer's elements, by input and output, whose range need not be known."""

from typing import NamedTuple

import torch
from torch import Tensor

# A bin is the sign, the exponent and four bits of the fraction of a float32.
_BITS = 4
_SHIFT, _BIAS = 23 - _BITS, 127
# The bins of one sign in a picture, and the share of the elements that may be beyond its ends.
_HALF, _BEYOND = 32, 1e-3


class SignedOctaves(NamedTuple):
    """Bins [a, b): of each sign 16 of equal width in each octave from 2^low to 2^high, one below, one beyond.

    They hold those of every picture: 64 bins of equal width from -2^k to 2^k, low + 5 <= k <= high.
    """

    low: int
    high: int

    @property
    def half(self) -> int:
        """The number of bins of one sign."""
        return ((self.high - self.low) << _BITS) + 2

    def numbers(self, values: Tensor) -> Tensor:
        """Return the bin of each value, taken as a float32, from 0 (int32)."""
        bits = values.float().contiguous().view(torch.int32)
        # In order of the values; the shift rounds down, so that a negative bin has its lower end.
        ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits) >> _SHIFT
        sign = ordered >> 31  # -1 or 0
        first = (_BIAS + self.low) << _BITS
        return (((ordered ^ sign) - first + 1).clamp_(0, self.half - 1) ^ sign) + self.half

    def picture_bins(self, exponent: int) -> Tensor:
        """Return, for each bin, its bin in a picture to 2^exponent: 1 to 64, or 0 and 65 beyond its ends."""
        octaves = torch.arange(self.low, self.high + 1, dtype=torch.float64)
        starts = torch.arange(1 << _BITS, dtype=torch.float64) / (1 << _BITS) + 1
        edges = torch.cat([torch.zeros(1), (octaves.exp2()[:, None] * starts).flatten()[: self.half - 1]])
        numbers = (edges * _HALF / 2.0**exponent).long().clamp_(max=_HALF)
        return torch.cat([_HALF - numbers.flip(0), _HALF + 1 + numbers])

    def exponent(self, counts: Tensor) -> int:
        """Return the minimum exponent of a picture with at most 1 in 1,000 of `counts` beyond its ends."""
        for exponent in range(self.low + _BITS + 1, self.high):
            bins = self.picture_bins(exponent)
            if int(counts[(bins < 1) | (bins > 2 * _HALF)].sum()) <= _BEYOND * int(counts.sum()):
                return exponent
        return self.high


# Inputs up to the end of float16; outputs of a layer of D features are within sqrt(D).
INPUTS, OUTPUTS = SignedOctaves(-10, 16), SignedOctaves(-3, 8)


class CurveHistogram:
    """The number of elements in each bin of input and output, (836, 356); parts add up in any order."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        shape = 2 * INPUTS.half, 2 * OUTPUTS.half
        self.histogram = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the elements of the input x and the output y, of one shape, without those whose y is NaN."""
        known = ~y.isnan()
        if not bool(known.all()):
            x, y = x[known], y[known]
        flat = self.histogram.view(-1)
        cells = INPUTS.numbers(x).mul_(2 * OUTPUTS.half).add_(OUTPUTS.numbers(y))
        flat += torch.bincount(cells.view(-1), minlength=len(flat))

    def merge(self, new: "CurveHistogram") -> None:
        """Add `new`."""
        self.histogram += new.histogram

    def picture(self) -> tuple[int, int, Tensor]:
        """Return the exponents k of the ends 2^k of input and output, and the counts in equal bins, (66, 66).

        The first and the last row and column are beyond the ends.
        """
        counts = self.histogram.cpu()
        ends = INPUTS.exponent(counts.sum(1)), OUTPUTS.exponent(counts.sum(0))
        size = 2 * _HALF + 2
        rows = counts.new_zeros(size, counts.shape[1]).index_add_(0, INPUTS.picture_bins(ends[0]), counts)
        bins = OUTPUTS.picture_bins(ends[1])
        return *ends, counts.new_zeros(size, size).index_add_(1, bins, rows)
