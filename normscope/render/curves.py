"""Curves along one axis for a terminal: each is one line of levels from its minimum to its maximum."""

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
    """Numbers along an axis, NaN where unknown, and whether to draw them on a log scale."""

    name: str
    values: Floats
    log: bool = False

    @property
    def heights(self) -> Floats:
        """The numbers to draw: their logarithms on a log scale."""
        heights: Floats = logarithms(self.values) if self.log else self.values
        return heights


def curve_grid(
    heading: str,
    curves: Sequence[Curve],
    axis: str,
    screen: Screen,
    notes: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> Grid:
    """Return curves of one length as a table that fits the screen, each on a scale of its own.

    Numbers that share a cell are averaged; minimum and maximum are of all numbers. The axis is 0, 1, ... or
    has `numbers` of its own.
    """
    names = Column("", "", [f"{curve.name}, log" if curve.log else curve.name for curve in curves])
    finite = [curve.values[np.isfinite(curve.values)] for curve in curves]
    minimum = Column("minimum", "", align(short(min(values, default=math.nan)) for values in finite))
    maximum = Column("maximum", "", align(short(max(values, default=math.nan)) for values in finite))
    room = screen.width - names.width - minimum.width - maximum.width - 3 * GAP
    runs = AxisRuns.over(len(curves[0].values), room, late=axis == "position")
    lines = [runs.draw(screen.glyphs.stairs(shares(runs.reduce(c.heights).tolist()))) for c in curves]
    drawn = Column(axis, runs.ticks(numbers), lines, drawn=True)
    scale = "Each row has its own scale, from its minimum to its maximum."
    return Grid(heading, [names, minimum, drawn, maximum], [*notes, scale])
