"""A report as GitHub-flavoured Markdown, for issues and notes: the tables of the terminal, in full."""

import re
from collections.abc import Iterable, Iterator, Sequence

from normscope.escaping import printable
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid
from normscope.render.layer import least_agreeing, over_features, over_positions, title
from normscope.render.modality_wording import worded
from normscope.render.outliers import by_layer, recurring
from normscope.render.summary import details, headline, summary, workload
from normscope.results.inspect import LayerReport, Report


def render_markdown(
    report: Report, *, layers: Sequence[str] = (), top: int = 10, verbose: bool = False
) -> str:
    """Return what `render_report` shows as Markdown: every column, no name cut.

    Nothing in the report is taken for Markdown or HTML.
    """
    shown = list(layers) or least_agreeing(report)
    parts = [*_top(report, shown, top, verbose)]
    for name in shown:
        parts += _layer(report.layers[name], top, report.run.medium)
    return "\n\n".join(parts) + "\n"


def _top(report: Report, shown: Sequence[str], top: int, verbose: bool) -> Iterator[str]:
    yield f"## {joined(headline(report))}"
    yield joined(workload(report))
    yield from markdown_table(worded(summary(report, shown, UNICODE), report.run.medium))
    if verbose:
        yield from markdown_table(details(report))
    for grid in (recurring(report, top), by_layer(report) if verbose else None):
        yield from markdown_table(worded(grid, report.run.medium)) if grid is not None else ()


def _layer(layer: LayerReport, top: int, medium: str) -> Iterator[str]:
    yield f"### {joined(title(layer))}"
    for grid in (over_positions(layer, top, UNICODE), over_features(layer, top, UNICODE)):
        if grid is not None:
            yield from markdown_table(worded(grid, medium))


def markdown_table(grid: Grid) -> Iterator[str]:
    """Return a grid's heading, table and notes."""
    yield f"**{escape(grid.heading)}**"
    yield "\n".join(_lines(grid))
    if grid.notes:
        yield "  \n".join(escape(note) for note in grid.notes)


def _lines(grid: Grid) -> Iterator[str]:
    yield _row(_title(column) for column in grid.columns)
    yield _row("--:" if is_numeric(column) else "---" for column in grid.columns)
    for cells in zip(*(column.cells for column in grid.columns), strict=True):
        yield _row(escape(re.sub(" +", " ", cell.strip())) for cell in cells)


def _title(column: Column) -> str:
    return escape(f"{column.title} {column.about}".strip()) or " "


def is_numeric(column: Column) -> bool:
    """Whether every cell begins as a number does."""
    return all(cell.strip()[:1] in set("-0123456789") for cell in column.cells)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def joined(parts: Iterable[str]) -> str:
    """Return facts on one line."""
    return escape(UNICODE.separator.join(parts))


def escape(text: str) -> str:
    """Return `text` as Markdown that shows just it: no link, tag, code, mention or cell of its own."""
    shown = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", printable(text))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
