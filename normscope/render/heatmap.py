"""Heat maps for a terminal: one row a layer, in 256 colours or in shades."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.text import Text

from normscope.render.axis_downsampling import AxisRuns
from normscope.render.glyphs import logarithms, shares, step
from normscope.render.grid import GAP, GOOD_NAME
from normscope.render.numbers import short
from normscope.render.short_names import shorten
from normscope.render.terminal import DRAWN, Screen
from normscope.results.common import Floats

# Viridis in the 256 colours of terminals: ever lighter, and told apart by the colour-blind.
RAMP = (17, 53, 24, 31, 36, 78, 148, 190, 228)
_LEAST_CELLS = 30


@dataclass(frozen=True)
class HeatMap:
    """Positive numbers (rows, columns) on a log scale, NaN where unknown, and how to read them.

    The columns are 0, 1, ... or have `numbers` of their own. Those that share a cell show the `mean` of
    their logarithms, or the one with the `max`.
    """

    heading: str
    names: Sequence[str]
    values: Floats
    axis: str
    unit: str
    by: Literal["mean", "max"] = "mean"
    late: bool = False
    notes: Sequence[str] = ()
    numbers: Sequence[int] | None = None


def mapped(map: HeatMap, screen: Screen) -> Iterator[RenderableType]:
    """Return a heat map that fits the screen, under its heading and above its axis, scale and notes."""
    most = max(min(GOOD_NAME, screen.width - GAP - _LEAST_CELLS), 8)
    names = shorten(map.names, min(most, screen.width // 4), screen.glyphs.ellipsis)
    margin = max(map_width for map_width in (*(cell_len(name) for name in names), len(map.axis)))
    runs = AxisRuns.over(map.values.shape[1], screen.width - margin - GAP, late=map.late)
    cells = runs.reduced(logarithms(map.values), map.by)
    places = np.reshape(shares(cells.ravel().tolist()), cells.shape).tolist()
    yield Text()
    yield Text(map.heading, "bold")
    for name, row in zip(names, places, strict=True):
        yield Text(set_cell_size(name, margin + GAP)).append_text(_row(runs, row, screen))
    yield Text(set_cell_size(map.axis, margin + GAP) + runs.ticks(map.numbers), "dim")
    yield Text()
    yield _legend(cells, map.unit, screen)
    yield from (Text(note, "dim") for note in (*_on_runs(map, runs), *map.notes))


def _row(runs: AxisRuns, places: Sequence[float], screen: Screen) -> Text:
    line = Text()
    for place in places:
        line.append_text(_cell(place, runs.wide, screen))
    return line


def _cell(place: float, wide: int, screen: Screen) -> Text:
    glyph = screen.glyphs.shade(place) * wide
    if not screen.colour or np.isnan(place):
        return Text(glyph)
    if screen.palette:
        # The shade is there for whoever copies it, in the colour that it stands on.
        colour = f"color({RAMP[step(place, len(RAMP))]})"
        return Text(glyph, f"{colour} on {colour}")
    return Text(glyph, DRAWN["bn"])


def _legend(cells: Floats, unit: str, screen: Screen) -> Text:
    """The scale with its least and greatest number."""
    known = cells[np.isfinite(cells)]
    if not len(known):
        return Text("Nothing was measured here.", "dim")
    low, high = short(10 ** float(known.min()), 2), short(10 ** float(known.max()), 2)
    steps = len(RAMP) if screen.colour and screen.palette else len(screen.glyphs.shades)
    scale = Text()
    for i in range(steps):
        scale.append_text(_cell((i + 0.5) / steps, 1, screen))
    return Text(f"{low} ").append_text(scale).append(f" {high}  log scale: {unit}")


def _on_runs(map: HeatMap, runs: AxisRuns) -> list[str]:
    if runs.longest <= 1:
        return []
    what = "the mean" if map.by == "mean" else "the largest"
    return [f"A cell is {what} of up to {runs.longest} {map.axis}s."]
