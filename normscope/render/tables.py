"""A report as tables for a terminal, coloured or plain, in the width there is."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from normscope.render.glyphs import ASCII, UNICODE, Glyphs
from normscope.render.grid import GAP, Column, Grid, fit
from normscope.render.layer import least_agreeing, over_features, over_positions, title
from normscope.render.summary import details, headline, summary, workload
from normscope.report import LayerReport, Report

STYLES = {"plain": "bold", "ln": "bold cyan", "bn": "bold magenta"}
LEAST_WIDTH = 60  # a narrower screen wraps lines; cutting numbers would change them


@dataclass(frozen=True)
class Screen:
    """What a rendering is for: its width, and whether colours and Unicode can be shown.

    80 columns is what every terminal, log viewer and issue thread shows without wrapping.
    """

    width: int = 80
    colour: bool = False
    unicode: bool = True

    @property
    def glyphs(self) -> Glyphs:
        """The characters to draw with."""
        return UNICODE if self.unicode else ASCII


def render_report(
    report: Report,
    *,
    layers: Sequence[str] = (),
    top: int = 10,
    verbose: bool = False,
    screen: Screen = Screen(),
) -> str:
    """Return the summary of all layers and the detailed tables of some, as text with line ends.

    `layers` are the names of those in detail; without any, the layer that agrees least with BN.
    `top` bounds the rows of the detailed tables. Nothing in the report is taken for markup, and
    no escape codes are in the text but the colours that `screen` asks for.
    """
    screen = Screen(max(screen.width, LEAST_WIDTH), screen.colour, screen.unicode)
    shown = list(layers) or least_agreeing(report)
    file = io.StringIO()
    console = Console(
        file=file,
        width=screen.width,
        force_terminal=screen.colour,
        color_system="standard" if screen.colour else None,
        no_color=not screen.colour,
        legacy_windows=False,
        emoji=False,
        markup=False,
        highlight=False,
    )
    console.print(*_parts(report, shown, top, verbose, screen), sep="\n", soft_wrap=False)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def _parts(
    report: Report, shown: Sequence[str], top: int, verbose: bool, screen: Screen
) -> Iterator[RenderableType]:
    yield _flow(headline(report), screen, "bold")
    yield _flow(workload(report), screen, "")
    yield from _drawn(summary(report, shown, screen.glyphs), screen)
    if verbose:
        yield from _drawn(details(report), screen)
    for name in shown:
        yield from _layer(report.layers[name], top, screen)


def _layer(layer: LayerReport, top: int, screen: Screen) -> Iterator[RenderableType]:
    yield Text()
    yield _flow(title(layer), screen, "bold")
    if not layer.calls:
        return
    grids = [over_positions(layer, top, screen.glyphs), over_features(layer, top, screen.glyphs)]
    for what, grid in zip(("position", "feature"), grids, strict=True):
        if grid is None:
            yield Text(f"No numbers by {what}: the layer's axes could not be told apart.", "dim")
        else:
            yield from _drawn(grid, screen)


def _drawn(grid: Grid, screen: Screen) -> Iterator[RenderableType]:
    yield Text()
    yield Text(grid.heading, "bold")
    yield _table(fit(grid, screen.width, screen.glyphs.ellipsis), screen)
    if grid.notes:
        yield Text()
    yield from (Text(note, "dim") for note in grid.notes)


def _table(grid: Grid, screen: Screen) -> Table:
    rule = screen.glyphs.rule
    box = Box("    \n    \n" + f" {rule * 2} \n" + "    \n" * 5, ascii=not screen.unicode)
    table = Table(box=box, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), collapse_padding=True)
    qualified = any(column.about for column in grid.columns)
    for column in grid.columns:
        table.add_column(_head(column, qualified), no_wrap=not column.wraps, overflow="fold")
    for row, cells in enumerate(zip(*(column.cells for column in grid.columns), strict=True)):
        style = "bold" if row in grid.strong else "dim" if row in grid.faint else ""
        table.add_row(*(Text(cell, style) for cell in cells))
    return table


def _head(column: Column, qualified: bool) -> Text:
    about = Text("\n" + column.about if qualified else "", "dim")
    return Text(column.title, STYLES[column.side]).append_text(about)


def _flow(parts: Iterable[str], screen: Screen, style: str) -> Text:
    """Join facts on as few lines as they need; only one that is wider than the screen is broken."""
    separator = screen.glyphs.separator
    lines = [""]
    for part in parts:
        longer = lines[-1] + separator + part if lines[-1] else part
        lines[-1:] = [longer] if Text(longer).cell_len <= screen.width or not lines[-1] else [lines[-1], part]
    first, *rest = lines
    return Text("\n").join([Text(first, style), *(Text(line) for line in rest)])
