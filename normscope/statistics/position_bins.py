"""Position bins: the first positions alone, later ones in bins, within a memory limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.errors import UsageError

MEMORY = 1 << 30
_NUMBER = 8  # bytes of a float64
# What a layer holds of a position and feature while it runs: of its moments mean, M2, the mean of y and the
# co-moment; of its sums the pivot and four of them.
_CELL = 9 * _NUMBER
# Of a position: the counts of both, the moments of its tokens' means and variances, its massive elements.
_ROW = 8 * _NUMBER
# What one layer takes beside that while its sums become moments; layers do so one after the other.
_READING = 9 * _NUMBER
# What is planned for where neither the model nor its tokenizer has a limit.
UNLIMITED = 1 << 20


@dataclass(frozen=True)
class Bins:
    """Positions 0 to k - 1 each on their own, k = `exact` and even; k to 2k - 1 in bins of 2, then of 4, ...

    No bin is wider than 2 / k of the position it starts at. They do not depend on the data, so parts of
    a corpus have the same, and they go on for ever.
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
        """Return how many bins hold positions 0 to `positions` - 1."""
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
    """The tables over positions of all layers: for how many `positions`, in how many `rows`, in which bins.

    `positions` None means that nothing limits them. `bytes` is what they take once texts reach the last;
    `exact_bytes` what they would without bins.
    """

    positions: int | None
    rows: int
    bins: Bins | None
    bytes: int
    exact_bytes: int


def plan_tables(features: Sequence[int], positions: int | None, memory: int = MEMORY) -> TablePlan:
    """Plan the tables of layers with so many features, for texts of at most `positions` tokens.

    A position on its own takes sum over layers of (72 D + 64) bytes, and 72 of the largest D while one
    layer is read. Raises UsageError where `memory` does not hold the widest bins.
    """
    each = sum(_CELL * d + _ROW for d in features) + _READING * max(features, default=0)
    most, room = positions or UNLIMITED, memory // max(each, 1)
    if positions is not None and positions <= room:
        return TablePlan(positions, positions, None, positions * each, positions * each)
    least = Bins(2).rows(most)
    if least > room:
        raise UsageError(
            f"table memory of {memory:,} bytes; expected at least {least * each:,}, for the tables of all "
            "layers; raise it, or measure fewer layers"
        )
    low, high = 1, max(2, min(room, most) // 2 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if Bins(2 * middle).rows(most) <= room else (low, middle)
    bins = Bins(2 * low)
    return TablePlan(positions, bins.rows(most), bins, bins.rows(most) * each, most * each)
