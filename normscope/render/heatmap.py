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
from normscope.render.terminal import DRAWING_STYLES, Screen
from normscope.results.common import Floats

# Viridis in the 256 colours of terminals: it gets lighter with each step, so the colour-blind can read it.
RAMP = (17, 53, 24, 31, 36, 78, 148, 190, 228)
_MIN_CELLS = 30


@dataclass(frozen=True)
class HeatMap:
    """Positive numbers (rows, columns) for a log scale, NaN where unknown, and how to read them.

    The columns are 0, 1, ... or have `numbers` of their own. Columns that share a cell show the `mean` or
    the `max` of their logarithms. With `late`, the first columns get a cell each and the later ones share.
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


def draw_heat_map(heat_map: HeatMap, screen: Screen) -> Iterator[RenderableType]:
    """Yield a heat map that fits the screen: its heading, its rows, its axis, its scale and its notes."""
    room = max(min(GOOD_NAME, screen.width - GAP - _MIN_CELLS), 8)
    names = shorten(heat_map.names, min(room, screen.width // 4), screen.glyphs.ellipsis)
    margin = max([len(heat_map.axis), *(cell_len(name) for name in names)])
    runs = AxisRuns.over(heat_map.values.shape[1], screen.width - margin - GAP, late=heat_map.late)
    cells = runs.reduce(logarithms(heat_map.values), heat_map.by)
    heights = np.reshape(shares(cells.ravel().tolist()), cells.shape).tolist()
    yield Text()
    yield Text(heat_map.heading, "bold")
    for name, row in zip(names, heights, strict=True):
        yield Text(set_cell_size(name, margin + GAP)).append_text(
            Text().join(_cell(height, runs.wide, screen) for height in row)
        )
    yield Text(set_cell_size(heat_map.axis, margin + GAP) + runs.ticks(heat_map.numbers), "dim")
    yield Text()
    yield _legend(cells, heat_map.unit, screen)
    if runs.longest > 1:
        reduction = "the mean" if heat_map.by == "mean" else "the largest"
        yield Text(f"A cell is {reduction} of up to {runs.longest} {heat_map.axis}s.", "dim")
    yield from (Text(note, "dim") for note in heat_map.notes)


def _cell(height: float, wide: int, screen: Screen) -> Text:
    glyph = screen.glyphs.shade(height) * wide
    if not screen.colour or np.isnan(height):
        return Text(glyph)
    if screen.palette:
        # The glyph has the colour of its background: it shows only where the text is copied to.
        colour = f"color({RAMP[step(height, len(RAMP))]})"
        return Text(glyph, f"{colour} on {colour}")
    return Text(glyph, DRAWING_STYLES["bn"])


def _legend(cells: Floats, unit: str, screen: Screen) -> Text:
    """The scale with its smallest and its largest number."""
    finite = cells[np.isfinite(cells)]
    if not len(finite):
        return Text("Nothing was measured here.", "dim")
    low, high = short(10 ** float(finite.min()), 2), short(10 ** float(finite.max()), 2)
    steps = len(RAMP) if screen.colour and screen.palette else len(screen.glyphs.shades)
    scale = Text().join(_cell((i + 0.5) / steps, 1, screen) for i in range(steps))
    return Text(f"{low} ").append_text(scale).append(f" {high}  log scale: {unit}")
