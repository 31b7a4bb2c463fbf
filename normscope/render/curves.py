"""Curves along one axis: one line of levels each, from minimum to maximum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normscope.render.axis_downsampling import AxisRuns
from normscope.render.glyphs import logarithms, shares
from normscope.render.grid import GAP, Column, Grid
from normscope.render.numbers import align, short
from normscope.render.terminal import Screen
from normscope.results.common import Floats


@dataclass(frozen=True)
class Curve:
    """Numbers along an axis, NaN where unknown, and whether they are drawn on a log scale."""

    name: str
    values: Floats
    log: bool = False

    @property
    def heights(self) -> Floats:
        """What is drawn."""
        heights: Floats = logarithms(self.values) if self.log else self.values
        return heights


def curved(
    heading: str,
    curves: Sequence[Curve],
    axis: str,
    screen: Screen,
    notes: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> Grid:
    """Return curves of one length as a table that fits the screen, each on a scale of its own.

    Numbers that share a cell are averaged; the ends are those of all numbers. The axis is 0, 1, ... or has
    `numbers` of its own.
    """
    names = Column("", "", [f"{curve.name}, log" if curve.log else curve.name for curve in curves])
    known = [curve.values[np.isfinite(curve.values)] for curve in curves]
    least = Column("least", "", align(short(min(values, default=math.nan)) for values in known))
    greatest = Column("greatest", "", align(short(max(values, default=math.nan)) for values in known))
    room = screen.width - names.width - least.width - greatest.width - 3 * GAP
    runs = AxisRuns.over(len(curves[0].values), room, late=axis == "position")
    lines = [runs.drawn(screen.glyphs.stairs(shares(runs.reduced(c.heights).tolist()))) for c in curves]
    line = Column(axis, runs.ticks(numbers), lines, drawn=True)
    scale = "Each row has a scale of its own, from its least to its greatest number."
    return Grid(heading, [names, least, line, greatest], [*notes, scale])
