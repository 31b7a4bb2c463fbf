"""Results as HTML tables, for notebooks: in the reader's own colours, light or dark, and nothing loaded."""

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch

from normscope.render import compare, why
from normscope.render.batch_composition import fillings
from normscope.render.batches import choice, noisiest, over_layers
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid
from normscope.render.html_markup import Markup, tag
from normscope.render.layer import least_agreeing
from normscope.render.layers import about as about_outline
from normscope.render.layers import outline_grid
from normscope.render.markdown import is_numeric
from normscope.render.modality_wording import worded
from normscope.render.outliers import recurring
from normscope.render.summary import headline, summary, workload
from normscope.render.swap import grids, plan
from normscope.results.batches import BatchReport
from normscope.results.compare import Comparison
from normscope.results.inspect import Report
from normscope.results.layers import Outline
from normscope.results.swap import SwapReport
from normscope.results.why import WhyReport

_TOP = 10
_MOST_MOVED = 20
# No colour of its own but a share of the text's: so it suits whatever it stands on.
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

Shown = tuple[Sequence[Sequence[str]], Iterable[Grid | None]]


def render_html(result: object) -> str:
    """Return a result as one HTML element; every string of it is text there, whatever it holds."""
    heads, tables = _parts(result)
    lines = [
        tag("p", UNICODE.separator.join(parts), class_="" if i else "strong") for i, parts in enumerate(heads)
    ]
    style = tag("style", Markup(_STYLE))
    return str(tag("div", style, *lines, *map(_table, filter(None, tables)), class_="normscope"))


@singledispatch
def _parts(result: object) -> Shown:
    """Return what a result says in lines, each of several facts, and its tables."""
    raise TypeError(f"{type(result).__name__} has no HTML")


@_parts.register
def _(result: Report) -> Shown:
    tables = (summary(result, least_agreeing(result), UNICODE), recurring(result, _TOP))
    worded_tables = [worded(grid, result.run.medium) for grid in tables if grid is not None]
    return [headline(result), workload(result), *([note] for note in result.warnings)], worded_tables


@_parts.register
def _(result: BatchReport) -> Shown:
    heads = [headline(result), workload(result), choice(result), *([note] for note in result.warnings)]
    return heads, [over_layers(result, noisiest(result), UNICODE), *fillings(result, _TOP)]


@_parts.register
def _(result: SwapReport) -> Shown:
    heads = [headline(result), workload(result), plan(result), *([note] for note in result.warnings)]
    return heads, grids(result, UNICODE)


@_parts.register
def _(result: WhyReport) -> Shown:
    heads = [why.about(result), why.workload(result), *([note] for note in result.warnings)]
    return heads, [why.verdicts(result), why.pooled_grid(result.pooled)]


@_parts.register
def _(result: Comparison) -> Shown:
    sides = [compare.about(side, name) for side, name in zip(result.reports, "AB", strict=True)]
    notes = ([note] for note in result.warnings)
    return [*sides, *notes], [compare.drifts(result, _MOST_MOVED, UNICODE)]


@_parts.register
def _(result: Outline) -> Shown:
    grid, shared = outline_grid(result, verbose=False)
    return [about_outline(result), *([shared] if shared else [])], [grid]


def _table(grid: Grid) -> Markup:
    head = (tag("th", f"{c.title} {c.about}".strip(), scope="col", class_=_kind(c)) for c in grid.columns)
    body = tag("tbody", *_rows(grid))
    drawn = tag("table", tag("caption", grid.heading), tag("thead", tag("tr", *head)), body)
    return tag("div", drawn, *(tag("p", note) for note in grid.notes))


def _rows(grid: Grid) -> Iterator[Markup]:
    columns = [[tag("td", cell, class_=_kind(c)) for cell in _cells(c)] for c in grid.columns]
    for i, row in enumerate(zip(*columns, strict=True)):
        yield tag("tr", *row, class_="strong" if i in grid.strong else "faint" if i in grid.faint else None)


def _cells(column: Column) -> Sequence[str]:
    """Return cells, numbers in one width: spaces before them align them, and a bar after must not undo it."""
    width = max(map(len, column.cells), default=0)
    return [cell.ljust(width) for cell in column.cells] if _kind(column) else column.cells


def _kind(column: Column) -> str | None:
    return "number" if is_numeric(column) else None
