"""Downsamples an axis: which numbers share a cell, and the labels below the cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from normscope.render.layer import spaced
from normscope.results.common import Floats

_WIDEST_CELL = 3
GAP = 2


@dataclass(frozen=True)
class AxisRuns:
    """An axis of `length` cut into runs: where each `starts`, and how many cells each is wide."""

    length: int
    starts: Sequence[int]
    wide: int = 1

    @classmethod
    def over(cls, length: int, room: int, *, late: bool = False) -> "AxisRuns":
        """Cut an axis to at most `room` cells: evenly, or `late`: the first ones alone, then ever more."""
        if length <= room:
            return cls(length, range(length), min(max(room // max(length, 1), 1), _WIDEST_CELL))
        even = [round(i * length / room) for i in range(room)]
        return cls(length, _later(length, room) if late else even)

    @property
    def longest(self) -> int:
        """The maximum count of numbers that share a cell."""
        return int(max(np.diff([*self.starts, self.length]), default=0))

    def reduced(self, values: Floats, by: Literal["mean", "max"] = "mean") -> Floats:
        """Return one number a run, of those that are known there: (..., length) -> (..., runs)."""
        values = np.asarray(values, dtype=np.float64)
        if not len(self.starts):
            return values
        known = np.isfinite(values)
        counts = np.add.reduceat(known, self.starts, axis=-1)
        if by == "mean":
            sums = np.add.reduceat(np.where(known, values, 0.0), self.starts, axis=-1)
            mean: Floats = np.where(counts, sums / np.maximum(counts, 1), np.nan)
            return mean
        most = np.maximum.reduceat(np.where(known, values, -np.inf), self.starts, axis=-1)
        return np.where(counts, most, np.nan)

    def drawn(self, cells: Sequence[str]) -> str:
        """Join what is drawn of the runs, each in its cells."""
        return "".join(cell * self.wide for cell in cells)

    def ticks(self, numbers: Sequence[int] | None = None) -> str:
        """Write the numbers that some runs start with, each below its run, and the last number of all.

        `numbers` (length,) are those of the axis, 0, 1, ... without any.
        """
        numbers = range(self.length) if numbers is None else numbers
        width, last = len(self.starts) * self.wide, str(numbers[-1]) if len(numbers) else ""
        end = max(width - max(len(last), self.wide), 0)
        line = ""
        for i, start in enumerate(self.starts):
            at, label = i * self.wide, str(numbers[start])
            if (not line or at >= len(line) + GAP * 2) and at + len(label) + GAP <= end:
                line = line.ljust(at) + label
        return line.ljust(end) + last if line or self.length else ""


def _later(length: int, room: int) -> list[int]:
    """Choose at most `room` starts. The early ones of `spaced` coincide, so more are requested."""
    starts = spaced(length, room)
    for asked in range(room + 1, length + 1):
        more = spaced(length, asked)
        if len(more) > room:
            break
        starts = more
    return starts
