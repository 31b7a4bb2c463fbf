"""Position bins: the first positions alone, later ones in bins, within a memory limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.errors import UsageError
from normscope.statistics.token_variances import BINS

# The default memory limit of the tables of all layers together, in bytes: 1 GiB.
MEMORY = 1 << 30
_NUMBER = 8  # bytes of a float64
# Bytes per position and feature while a layer runs: mean, M2, mean of y and co-moment of its moments; the
# pivot and four more of its running sums.
_CELL = 9 * _NUMBER
# Bytes per position: two counts, the moments of the tokens' means and variances, the massive elements, and
# the range and int32 histogram of the variances.
_ROW = 10 * _NUMBER + 4 * BINS
# Extra bytes while the sums of a layer become moments; only one layer does so at a time.
_READING = 9 * _NUMBER
# The number of positions to plan for if neither the model nor its tokenizer has a limit.
UNLIMITED = 1 << 20


@dataclass(frozen=True)
class Bins:
    """Positions 0 to k - 1 have a bin each, k = `exact` and even; k to 2k - 1 share bins of 2, then of 4, ...

    No bin is wider than 2 / k of the position at which it starts. The bins do not depend on the data, so
    all parts of a corpus have the same bins. There is no last bin.
    """

    exact: int

    def of(self, positions: Tensor) -> Tensor:
        """Return the bin of each position, int64."""
        half, edges = self.exact // 2, [self.exact << octave for octave in range(40)]
        octave = torch.bucketize(positions, torch.tensor(edges, device=positions.device), right=True)
        start = torch.where(octave > 0, self.exact << (octave - 1).clamp(min=0), 0)
        before = torch.where(octave > 0, self.exact + (octave - 1) * half, 0)
        return before + ((positions - start) >> octave)

    def rows(self, positions: int) -> int:
        """Return the number of bins for positions 0 to `positions` - 1."""
        if positions <= self.exact:
            return positions
        octave = ((positions - 1) // self.exact).bit_length()
        start = self.exact << (octave - 1)
        return self.exact + (octave - 1) * (self.exact // 2) + math.ceil((positions - start) / (1 << octave))

    def first(self, rows: int) -> list[int]:
        """Return the first position of each of the first `rows` bins."""
        firsts, width = list(range(min(rows, self.exact))), 2
        while len(firsts) < rows:
            start = firsts[-1] + width // 2
            firsts += range(start, 2 * start, width)
            width *= 2
        return firsts[:rows]


@dataclass(frozen=True)
class TablePlan:
    """The size of the tables over positions of all layers: `rows` rows for `positions` positions, in `bins`.

    `positions` is None if there is no limit. `bytes` is the memory of the tables once texts reach the
    last position; `exact_bytes` is that memory without bins.
    """

    positions: int | None
    rows: int
    bins: Bins | None
    bytes: int
    exact_bytes: int


def plan_tables(features: Sequence[int], positions: int | None, memory: int = MEMORY) -> TablePlan:
    """Plan the tables of layers with these numbers of `features`, for texts of at most `positions` tokens.

    A position without a bin takes (72 D + 1616) bytes, summed over layers, and 72 bytes times the maximum D
    while one layer is read. Raises UsageError if not even the widest bins fit in `memory` bytes.
    """
    row_bytes = sum(_CELL * d + _ROW for d in features) + _READING * max(features, default=0)
    longest, maximum_rows = positions or UNLIMITED, memory // max(row_bytes, 1)
    if positions is not None and positions <= maximum_rows:
        return TablePlan(positions, positions, None, positions * row_bytes, positions * row_bytes)
    minimum_rows = Bins(2).rows(longest)
    if minimum_rows > maximum_rows:
        raise UsageError(
            f"table memory of {memory:,} bytes; expected at least {minimum_rows * row_bytes:,}, "
            "for the tables of all layers; raise it, or measure fewer layers"
        )
    # Binary search for the maximum number of exact positions whose bins fit.
    low, high = 1, max(2, min(maximum_rows, longest) // 2 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if Bins(2 * middle).rows(longest) <= maximum_rows else (low, middle)
    bins = Bins(2 * low)
    return TablePlan(positions, bins.rows(longest), bins, bins.rows(longest) * row_bytes, longest * row_bytes)
