"""GitHub-flavoured Markdown, for issues and notes: the tables of the terminal with every column."""

import re
from collections.abc import Iterable, Iterator

from normscope.escaping import printable
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid, Section


def markdown_sections(sections: Iterable[Section]) -> str:
    """Return sections as Markdown: headings, lines of facts, and tables; sentences are left out.

    No string in them is read as Markdown or HTML.
    """
    parts: list[str] = []
    for section in sections:
        first, *rest = map(join_facts, section.lines)
        parts += [f"{'###' if parts else '##'} {first}", *rest]
        for grid in section.grids:
            parts += markdown_table(grid) if isinstance(grid, Grid) else ()
    return "\n\n".join(parts) + "\n"


def markdown_table(grid: Grid) -> Iterator[str]:
    """Yield a grid's heading, table and notes."""
    yield f"**{escape(grid.heading)}**"
    yield "\n".join(_lines(grid))
    if grid.legend or grid.notes:
        yield "  \n".join(escape(note) for note in [*grid.legend, *grid.notes])


def _lines(grid: Grid) -> Iterator[str]:
    yield _row(_title(column) for column in grid.columns)
    yield _row("--:" if is_numeric(column) else "---" for column in grid.columns)
    for cells in zip(*(column.cells for column in grid.columns), strict=True):
        yield _row(escape(re.sub(" +", " ", cell.strip())) for cell in cells)


def _title(column: Column) -> str:
    return escape(f"{column.title} {column.about}".strip()) or " "


def is_numeric(column: Column) -> bool:
    """Whether every cell begins like a number."""
    return all(cell.strip()[:1] in set("-0123456789") for cell in column.cells)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def join_facts(facts: Iterable[str]) -> str:
    """Return facts on one line."""
    return escape(UNICODE.separator.join(facts))


def escape(text: str) -> str:
    """Return `text` as Markdown that shows it unchanged: no link, tag, code, mention or table cell."""
    escaped = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
