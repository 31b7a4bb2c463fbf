"""The glossary for a terminal or in Markdown: a list of all numbers, or full entries of some."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.text import Text

from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid
from normscope.render.markdown import escape, markdown_table
from normscope.render.terminal import Screen, draw_grid, render_parts
from normscope.results.glossary.entry import NOTATION, Entry
from normscope.results.glossary.lookup import COMMANDS, ENTRIES, TOPICS, columns

_MAX_WIDTH = 100  # prose in longer lines is hard to read
_HINT = (
    "normscope explain NAME shows one in full: NAME is one of these, or the title of a table's column. "
    "normscope explain COMMAND says what every column of a command's tables holds: COMMAND is "
    f"{', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}."
)
_COLUMNS_HINT = (
    "A wide terminal shows more columns. A dash is an unknown number. "
    "normscope explain NAME has the formula, range and source of a number."
)


def render_glossary(screen: Screen = Screen()) -> str:
    """Return one line for each number of every report, by topic, as text with line ends."""
    return _text(_topics(), _HINT, screen)


def render_glossary_markdown() -> str:
    """Return what `render_glossary` shows as GitHub-flavoured Markdown."""
    return _markdown(_topics(), _HINT)


def render_entries(entries: Sequence[Entry], below: Sequence[Entry] = (), screen: Screen = Screen()) -> str:
    """Return entries in full, then the entries `below` the first, one a line, as text with line ends."""
    screen = replace(screen, width=min(screen.width, _MAX_WIDTH))
    return _text(_in_full(entries, below, screen.glyphs.separator, "\n"), NOTATION, screen)


def render_entries_markdown(entries: Sequence[Entry], below: Sequence[Entry] = ()) -> str:
    """Return what `render_entries` shows as GitHub-flavoured Markdown."""
    return _markdown(_in_full(entries, below, UNICODE.separator, "; "), NOTATION)


def render_columns(command: str, screen: Screen = Screen()) -> str:
    """Return what each column of a command's tables holds, by topic, as text with line ends."""
    screen = replace(screen, width=min(screen.width, _MAX_WIDTH))
    return _text(_columns(command), _COLUMNS_HINT, screen)


def render_columns_markdown(command: str) -> str:
    """Return what `render_columns` shows as GitHub-flavoured Markdown."""
    return _markdown(_columns(command), _COLUMNS_HINT)


def _columns(command: str) -> Iterator[Grid]:
    for topic, entries in columns(command).items():
        names = Column("name", "", [entry.column for entry in entries], wraps=True)
        yield Grid(topic, [names, Column("what it holds", "", [*map(_meaning, entries)], wraps=True)])


def _meaning(entry: Entry) -> str:
    """The sentence on a column; a number without one has the entry's title, as short as that."""
    in_tables = entry.columns or entry.brief
    return entry.meaning if in_tables else f"{entry.title[0].upper()}{entry.title[1:]}."


def _text(grids: Iterable[Grid], note: str, screen: Screen) -> str:
    parts = [part for grid in grids for part in draw_grid(grid, screen)]
    return render_parts([*parts[1:], Text(), Text(note, "dim")], screen)


def _markdown(grids: Iterable[Grid], note: str) -> str:
    return "\n\n".join([*(part for grid in grids for part in markdown_table(grid)), escape(note)]) + "\n"


def _in_full(
    entries: Sequence[Entry], below: Sequence[Entry], separator: str, line_end: str
) -> Iterator[Grid]:
    yield from (_facts(entry, separator, line_end) for entry in entries)
    if below:
        yield _lines(f"The numbers of {entries[0].name}", below)


def _facts(entry: Entry, separator: str, line_end: str) -> Grid:
    """One entry in full, as a table of two columns without titles."""
    facts = {
        "definition": entry.definition,
        "formula": entry.formula.replace("; ", line_end),
        "range": entry.range,
        "how to read": entry.reading,
        "source": entry.source,
        "printed by": ", ".join(f"normscope {command}" for command in entry.commands),
        "in tables": ", ".join(entry.columns),
        "see also": ", ".join(entry.see_also),
    }
    facts = {name: text for name, text in facts.items() if text}
    columns = [Column("", "", [*facts]), Column("", "", [*facts.values()], wraps=True)]
    return Grid(f"{entry.name}{separator}{entry.title}", columns)


def _topics() -> Iterator[Grid]:
    widest = max(map(len, ENTRIES))
    yield from (_lines(topic.title, topic.entries, widest) for topic in TOPICS)


def _lines(heading: str, entries: Sequence[Entry], widest: int = 0) -> Grid:
    """Entries in one line each; names are padded to `widest`, so that tables line up."""
    columns = [
        Column("name", "", [entry.name.ljust(widest) for entry in entries]),
        Column("what it is", "", [entry.title for entry in entries], wraps=True),
        Column("printed by", "", [", ".join(entry.commands) for entry in entries], rank=2),
        Column("in tables", "", [", ".join(entry.columns) for entry in entries], rank=3),
    ]
    return Grid(heading, columns)
