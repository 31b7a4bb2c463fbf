"""Downsamples an axis to the cells of a screen, and labels them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from normscope.results.common import Floats

_WIDEST_CELL = 3
_TICK_GAP = 2  # spaces between labels


@dataclass(frozen=True)
class AxisRuns:
    """An axis of `length` numbers cut into runs: where each run starts, and how many cells it is `wide`."""

    length: int
    starts: Sequence[int]
    wide: int = 1

    @classmethod
    def over(cls, length: int, room: int, *, late: bool = False) -> "AxisRuns":
        """Cut an axis to at most `room` cells: evenly, or if `late` in runs of 1, then ever longer ones."""
        if length <= room:
            return cls(length, range(length), min(max(room // max(length, 1), 1), _WIDEST_CELL))
        even = [round(i * length / room) for i in range(room)]
        return cls(length, _later(length, room) if late else even)

    @property
    def longest(self) -> int:
        """The maximum count of numbers that share a cell."""
        return int(max(np.diff([*self.starts, self.length]), default=0))

    def reduce(self, values: Floats, by: Literal["mean", "max"] = "mean") -> Floats:
        """Return one number for each run, from its finite numbers: (..., length) -> (..., runs)."""
        values = np.asarray(values, dtype=np.float64)
        if not len(self.starts):
            return values
        finite = np.isfinite(values)
        counts = np.add.reduceat(finite, self.starts, axis=-1)
        if by == "mean":
            sums = np.add.reduceat(np.where(finite, values, 0.0), self.starts, axis=-1)
            mean: Floats = np.where(counts, sums / np.maximum(counts, 1), np.nan)
            return mean
        maximum = np.maximum.reduceat(np.where(finite, values, -np.inf), self.starts, axis=-1)
        return np.where(counts, maximum, np.nan)

    def draw(self, cells: Sequence[str]) -> str:
        """Join the glyphs of the runs, each as wide as its run."""
        return "".join(cell * self.wide for cell in cells)

    def ticks(self, numbers: Sequence[int] | None = None) -> str:
        """Write the first numbers of some runs, each below its run, and the last number of the axis.

        `numbers` (length,) are the numbers of the axis, by default 0, 1, ...
        """
        numbers = range(self.length) if numbers is None else numbers
        width, last = len(self.starts) * self.wide, str(numbers[-1]) if len(numbers) else ""
        end = max(width - max(len(last), self.wide), 0)
        line = ""
        for i, start in enumerate(self.starts):
            at, label = i * self.wide, str(numbers[start])
            if (not line or at >= len(line) + _TICK_GAP * 2) and at + len(label) + _TICK_GAP <= end:
                line = line.ljust(at) + label
        return line.ljust(end) + last if line or self.length else ""


def spaced_rows(length: int, maximum: int) -> list[int]:
    """Choose at most `maximum` of 0..length-1: all, or the first four, some in ever wider steps, the last."""
    maximum = max(maximum, 1)
    if length <= maximum:
        return list(range(length))
    start = max(min(4, maximum - 1), 1)
    steps = np.geomspace(start, length - 1, maximum - start + 1)[1:].tolist()
    return sorted({*range(start), *(round(step) for step in steps)})


def _later(length: int, room: int) -> list[int]:
    """Choose at most `room` starts.

    Early ones of `spaced_rows` coincide, so it returns fewer than requested, and more are requested.
    """
    starts = spaced_rows(length, room)
    for requested in range(room + 1, length + 1):
        more = spaced_rows(length, requested)
        if len(more) > room:
            break
        starts = more
    return starts
