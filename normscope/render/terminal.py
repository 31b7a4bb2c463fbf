"""Terminal output: tables and lines of facts, coloured or plain, that fit the screen's width."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from normscope.render.glyphs import ASCII, UNICODE, Glyphs
from normscope.render.grid import GAP, Grid, Section, fit

_STYLES = {"plain": "bold", "ln": "bold cyan", "bn": "bold magenta"}
DRAWING_STYLES = {"plain": "green", "ln": "cyan", "bn": "magenta"}
MIN_WIDTH = 60  # a narrower screen wraps lines, since cutting numbers would change them


@dataclass(frozen=True)
class Screen:
    """The screen to render for: its width in columns, and whether it shows colours, Unicode, 256 colours.

    Every terminal, log viewer and issue thread shows 80 columns without wrapping. A `width` below
    `MIN_WIDTH` becomes that.
    """

    width: int = 80
    colour: bool = False
    unicode: bool = True
    palette: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", max(self.width, MIN_WIDTH))

    @property
    def glyphs(self) -> Glyphs:
        """The characters to draw with."""
        return UNICODE if self.unicode else ASCII


def render_sections(sections: Iterable[Section], screen: Screen) -> str:
    """Return sections as text with line ends, an empty line between them."""
    return render_parts(list(_section_parts(sections, screen))[1:], screen)


def _section_parts(sections: Iterable[Section], screen: Screen) -> Iterator[RenderableType]:
    for section in sections:
        yield Text()
        yield from draw_facts(section.lines, screen)
        for grid in section.grids:
            yield from [Text(grid, "dim")] if isinstance(grid, str) else draw_grid(grid, screen)


def draw_facts(lines: Iterable[Sequence[str]], screen: Screen) -> Iterator[Text]:
    """Yield lines of facts, the first in bold."""
    yield from (flow(facts, screen, "" if i else "bold") for i, facts in enumerate(lines))


def render_parts(parts: Iterable[RenderableType], screen: Screen) -> str:
    """Return parts as text with line ends.

    No string in them is read as markup. The only escape codes are those of the screen's colours.
    """
    file = io.StringIO()
    console = Console(
        file=file,
        width=screen.width,
        force_terminal=screen.colour,
        color_system=("256" if screen.palette else "standard") if screen.colour else None,
        no_color=not screen.colour,
        legacy_windows=False,
        emoji=False,
        markup=False,
        highlight=False,
    )
    console.print(*parts, sep="\n", soft_wrap=False)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def draw_grid(grid: Grid, screen: Screen) -> Iterator[RenderableType]:
    """Yield a grid: its heading, a table that fits the screen, its legend and its notes."""
    fitted = fit(grid, screen.width, screen.glyphs.ellipsis)
    yield Text()
    if not grid.compact:
        yield Text(grid.heading, "bold")
    yield _table(fitted, screen)
    if (grid.notes or fitted.legend) and not grid.compact:
        yield Text()
    if fitted.legend:
        yield Text(flow(fitted.legend, screen, "").plain, "dim")
    yield from (Text(note, "dim") for note in grid.notes)


def _table(grid: Grid, screen: Screen) -> Table:
    rule = screen.glyphs.rule
    box = Box("    \n    \n" + f" {rule * 2} \n" + "    \n" * 5, ascii=not screen.unicode)
    table = Table(
        box=None if grid.compact else box,
        show_edge=False,
        show_header=any(column.title for column in grid.columns),
        pad_edge=False,
        padding=(0, GAP if grid.compact else GAP - 1, 0, 0),
        collapse_padding=True,
    )
    qualified = any(column.about for column in grid.columns)
    for column in grid.columns:
        about = Text("\n" + column.about if qualified else "", "dim")
        head = Text(column.title, _STYLES[column.side]).append_text(about)
        table.add_column(head, no_wrap=not column.wraps, overflow="fold")
    for row, cells in enumerate(zip(*(column.cells for column in grid.columns), strict=True)):
        style = "bold" if row in grid.strong else "dim" if row in grid.faint else ""
        styles = [f"{style} {DRAWING_STYLES[c.side]}" if c.drawn else style for c in grid.columns]
        table.add_row(*map(Text, cells, styles))
    return table


def flow(facts: Iterable[str], screen: Screen, style: str) -> Text:
    """Join facts on as few lines as possible; only a fact that is wider than the screen is broken."""
    separator = screen.glyphs.separator
    lines = [""]
    for fact in facts:
        longer = lines[-1] + separator + fact if lines[-1] else fact
        lines[-1:] = [longer] if Text(longer).cell_len <= screen.width or not lines[-1] else [lines[-1], fact]
    first, *rest = lines
    return Text("\n").join([Text(first, style), *(Text(line) for line in rest)])
