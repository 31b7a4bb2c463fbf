"""Tables before layout: titled columns of cells, their wording, and the columns that fit a width."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len

from normscope.render.short_names import shorten

GAP = 2  # spaces between columns
_NARROW = 2  # columns up to this rank belong on a screen of 80 columns
# A layer name shrinks to _MIN_NAME before such a column is dropped, and to GOOD_NAME before any other is.
_MIN_NAME = 17
GOOD_NAME = 34
_WRAPPED_NAME = 44  # in this width, names that wrap do so rarely


@dataclass(frozen=True)
class Column:
    """One column: a title, a second line `about` it, and its cells as text.

    `side` gives LN one colour everywhere, and BN another. When not all columns fit, those of higher `rank`
    are dropped first. Cells of a column of `names` are cut to the room that is left; those of one that
    `wraps` are broken. Cells that are `drawn`, such as bars, take the colour of their side. `key` is the
    column's entry in the legend.
    """

    title: str
    about: str
    cells: Sequence[str]
    side: Literal["plain", "ln", "bn"] = "plain"
    rank: int = 0
    names: bool = False
    wraps: bool = False
    drawn: bool = False
    key: str = ""

    @property
    def width(self) -> int:
        """The number of cells that it takes on a screen."""
        return max(cell_len(text) for text in (self.title, self.about, *self.cells))


@dataclass(frozen=True)
class Grid:
    """A table: a heading, columns of equal length, lines below, and the rows to show `strong` or `faint`.

    A terminal shows a `compact` one without its heading and rule.
    """

    heading: str
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    strong: frozenset[int] = frozenset()
    faint: frozenset[int] = frozenset()
    compact: bool = False

    @property
    def legend(self) -> list[str]:
        """The entries of the columns' legend, each once."""
        return list(dict.fromkeys(column.key for column in self.columns if column.key))


@dataclass(frozen=True)
class Section:
    """Lines of facts, the first of which is the heading, above tables, or a sentence in a table's place."""

    lines: Sequence[Sequence[str]]
    grids: Sequence[Grid | str]


# The word for one of what was fed, instead of "text"; inputs of several kinds are samples.
_NOUNS = {"image": "image", "audio": "sound", "several": "sample"}


def reword_grid(grid: Grid, medium: str) -> Grid:
    """Return a table whose heading, titles and notes name what was fed; its cells are data and stay."""
    columns = [
        replace(c, title=reword(c.title, medium), about=reword(c.about, medium), key=reword(c.key, medium))
        for c in grid.columns
    ]
    notes = [reword(note, medium) for note in grid.notes]
    return replace(grid, heading=reword(grid.heading, medium), columns=columns, notes=notes)


def reword(sentence: str, medium: str) -> str:
    """Return one of our own sentences with "text" replaced by the word for what was fed."""
    return re.sub(r"\btext(s?)\b", rf"{_NOUNS.get(medium, 'text')}\1", sentence)


def fit(grid: Grid, width: int, ellipsis: str) -> Grid:
    """Return `grid` with the columns that fit `width`, its names cut to the room that is left."""
    kept = list(grid.columns)
    for rank in sorted({column.rank for column in kept if column.rank}, reverse=True):
        if _needed(kept, rank) <= width:
            break
        kept = [column for column in kept if column.rank != rank]
    room = width - sum(column.width + GAP for column in kept if not column.names)
    columns = [
        replace(column, cells=shorten(column.cells, max(room, 8), ellipsis)) if column.names else column
        for column in kept
    ]
    return replace(grid, columns=columns)


def _needed(columns: Iterable[Column], rank: int) -> int:
    """The width that the columns need; names shrink further before a column of low rank is dropped."""
    name_width = _MIN_NAME if rank <= _NARROW else GOOD_NAME
    widths = [
        min(column.width, name_width if column.names else _WRAPPED_NAME if column.wraps else column.width)
        for column in columns
    ]
    return sum(widths) + GAP * (len(widths) - 1)
