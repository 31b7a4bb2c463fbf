"""Results as Python shows them: as text for print, as HTML tables for notebooks.

The HTML takes the reader's own colours, light or dark, and loads nothing.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from normscope.render import compare, inspect, layers, swap, track, trajectory, why
from normscope.render.batch_composition import fillings
from normscope.render.batches import facts, noisiest, over_layers, render_batches
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid, Section
from normscope.render.html_markup import Markup, tag
from normscope.render.markdown import is_numeric
from normscope.render.pooled import pooled_grid
from normscope.render.terminal import Screen, render_sections
from normscope.results.base import Shown
from normscope.results.batches import BatchReport
from normscope.results.compare import Comparison
from normscope.results.inspect import LayerReport, Report
from normscope.results.layers import Outline
from normscope.results.swap import SwapReport
from normscope.results.track import Track
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

_TOP = 10
_MAX_MOVERS = 20
# All colours are those of the surrounding text or half transparent, so they suit light and dark notebooks.
_STYLE = """
.normscope { overflow-x: auto; color: inherit; }
.normscope table { border-collapse: collapse; margin: 0.6em 0; color: inherit; background: none; }
.normscope caption { text-align: left; font-weight: bold; padding: 0.2em 0; color: inherit; }
.normscope th, .normscope td { padding: 0.15em 0.7em; text-align: left; vertical-align: bottom;
  color: inherit; background: none; border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.35); }
.normscope td { font-family: monospace; white-space: pre; }
.normscope .number { text-align: right; }
.normscope .strong { font-weight: bold; }
.normscope .faint { opacity: 0.6; }
.normscope p { margin: 0.2em 0; color: inherit; }
"""


def render_html(result: Shown) -> str:
    """Return a result as one HTML element; every string of the result is escaped."""
    section = next(of(result) for kind, of in _SECTIONS.items() if isinstance(result, kind))
    lines = [*section.lines, *([warning] for warning in getattr(result, "warnings", ()))]
    paragraphs = [
        tag("p", UNICODE.separator.join(facts), class_="" if i else "strong") for i, facts in enumerate(lines)
    ]
    tables = [_table(grid) for grid in section.grids if isinstance(grid, Grid)]
    return str(tag("div", tag("style", Markup(_STYLE)), *paragraphs, *tables, class_="normscope"))


def render_text(result: Shown) -> str:
    """Return what the command shows of a result in the terminal, without colours, as wide as that."""
    screen = Screen(shutil.get_terminal_size().columns or 80)
    render = next(render for kind, render in _TEXTS.items() if isinstance(result, kind))
    return render(result, screen).removesuffix("\n")


def _batch_section(report: BatchReport) -> Section:
    grids = [over_layers(report, noisiest(report), UNICODE), *fillings(report, _TOP)]
    return Section(facts(report), grids)


def _why_section(report: WhyReport) -> Section:
    return Section(
        [why.about(report), why.workload(report)], [why.verdicts(report), pooled_grid(report.pooled)]
    )


def _layer_section(layer: LayerReport) -> Section:
    return inspect.layer_section(layer, "", _TOP, "text", UNICODE)


# The lines of facts and the tables that a notebook shows of each kind of result.
_SECTIONS: dict[type, Callable[[Any], Section]] = {
    Report: lambda result: next(inspect.sections(result, inspect.WIDE)),
    LayerReport: _layer_section,
    BatchReport: _batch_section,
    SwapReport: lambda result: swap.section(result, UNICODE),
    WhyReport: _why_section,
    Comparison: lambda result: Section(compare.sides(result), [compare.drifts(result, _MAX_MOVERS, UNICODE)]),
    Outline: lambda result: layers.section(result, verbose=False),
    Track: lambda result: track.section(result, _MAX_MOVERS, inspect.WIDE),
    Trajectory: lambda result: Section([trajectory.facts(result)], [trajectory.revisions(result, UNICODE)]),
}
# The same of a terminal; the last line of `inspect`, which names options of the command, is left out.
_TEXTS: dict[type, Callable[[Any, Screen], str]] = {
    Report: lambda result, screen: render_sections(
        inspect.sections(result, screen, every_layer=False), screen
    ),
    LayerReport: lambda result, screen: render_sections([_layer_section(result)], screen),
    BatchReport: lambda result, screen: render_batches(result, screen=screen),
    SwapReport: lambda result, screen: swap.render_swap(result, screen=screen),
    WhyReport: lambda result, screen: why.render_why(result, screen=screen),
    Comparison: lambda result, screen: compare.render_comparison(result, screen=screen),
    Outline: lambda result, screen: layers.render_outline(result, screen=screen),
    Track: lambda result, screen: track.render_track(result, screen=screen),
    Trajectory: lambda result, screen: trajectory.render_trajectory(result, screen=screen),
}


def _table(grid: Grid) -> Markup:
    head = (tag("th", f"{c.title} {c.about}".strip(), scope="col", class_=_kind(c)) for c in grid.columns)
    body = tag("tbody", *_rows(grid))
    drawn = tag("table", tag("caption", grid.heading), tag("thead", tag("tr", *head)), body)
    return tag("div", drawn, *(tag("p", note) for note in (*grid.legend, *grid.notes)))


def _rows(grid: Grid) -> Iterator[Markup]:
    columns = [[tag("td", cell, class_=_kind(c)) for cell in _cells(c)] for c in grid.columns]
    for i, row in enumerate(zip(*columns, strict=True)):
        yield tag("tr", *row, class_="strong" if i in grid.strong else "faint" if i in grid.faint else None)


def _cells(column: Column) -> Sequence[str]:
    """Return cells, numbers padded to one width: a bar after a number must not undo its alignment."""
    width = max(map(len, column.cells), default=0)
    return [cell.ljust(width) for cell in column.cells] if _kind(column) else column.cells


def _kind(column: Column) -> str | None:
    return "number" if is_numeric(column) else None
