"""A layer's output against its input for a terminal: the density of elements, in shades."""

from collections.abc import Iterator, Sequence

import numpy as np

from normscope.escaping import grouped
from normscope.render.glyphs import logarithms, shares
from normscope.render.grid import GAP, Column, Grid, Section
from normscope.render.layer import chosen_layers, title
from normscope.render.numbers import align
from normscope.render.terminal import Screen
from normscope.results.common import Counts
from normscope.results.curve import BINS, InputOutputCurve
from normscope.results.inspect import LayerReport, Report

_ROWS = 16


def curve_sections(report: Report, layers: Sequence[str], screen: Screen) -> Iterator[Section]:
    """Yield the section of each chosen layer that has a curve."""
    for name, reason in chosen_layers(report, layers).items():
        if grid := curve_picture(report.layers[name], screen):
            yield Section([title(report.layers[name]), *([[reason]] if reason else [])], [grid])


def curve_picture(layer: LayerReport, screen: Screen) -> Grid | None:
    """Return the density of a layer's elements as a table that fits the screen; None without a curve."""
    curve = layer.curve
    if curve is None:
        return None
    lows = -curve.output_limit + 2 * curve.output_limit * np.arange(_ROWS)[::-1] / _ROWS
    labels = Column("output", "from", align(f"{low:g}" for low in lows))
    width = BINS if screen.width >= labels.width + GAP + BINS else BINS // 2
    counts = curve.histogram().reshape(width, -1, _ROWS, BINS // _ROWS).sum((1, 3)).T[::-1]  # (rows, width)
    heights = shares(logarithms(counts).ravel().tolist())
    cells = [screen.glyphs.shade(height) for height in heights]
    lines = ["".join(cells[row * width : (row + 1) * width]) for row in range(_ROWS)]
    drawn = Column("input", _ticks(curve.input_limit, width), lines, drawn=True)
    return Grid("Output against input", [labels, drawn], _notes(curve, counts[counts > 0], screen))


def _ticks(limit: float, width: int) -> str:
    end = f"{limit:g}"
    return f"{-limit:<{width // 2}g}0".ljust(width - len(end)) + end


def _notes(curve: InputOutputCurve, drawn: Counts, screen: Screen) -> list[str]:
    elements = int(curve.count.sum()) + curve.beyond
    low, high = (grouped(end(drawn.tolist(), default=0)) for end in (min, max))
    return [
        "An element is one feature of one token; output: before scale and shift.",
        f"{low} {screen.glyphs.shades} {high}  log scale: elements in a cell",
        f"{grouped(curve.beyond)} of {grouped(elements)} elements are beyond the ends.",
        "How to read it: normscope explain curve",
    ]
