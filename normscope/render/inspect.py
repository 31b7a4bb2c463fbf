"""A report as tables for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from normscope.render.layer import least_agreeing, over_features, over_positions, title
from normscope.render.modality_wording import worded
from normscope.render.outliers import by_layer, recurring
from normscope.render.summary import details, headline, summary, workload
from normscope.render.terminal import LEAST_WIDTH, Screen, drawn, flow, printed
from normscope.results.inspect import LayerReport, Report


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
    screen = replace(screen, width=max(screen.width, LEAST_WIDTH))
    shown = list(layers) or least_agreeing(report)
    return printed(_parts(report, shown, top, verbose, screen), screen)


def _parts(
    report: Report, shown: Sequence[str], top: int, verbose: bool, screen: Screen
) -> Iterator[RenderableType]:
    yield flow(headline(report), screen, "bold")
    yield flow(workload(report), screen, "")
    yield from drawn(worded(summary(report, shown, screen.glyphs), report.run.medium), screen)
    if verbose:
        yield from drawn(details(report), screen)
    for grid in (recurring(report, top), by_layer(report) if verbose else None):
        yield from drawn(worded(grid, report.run.medium), screen) if grid is not None else ()
    for name in shown:
        yield from _layer(report.layers[name], top, report.run.medium, screen)


def _layer(layer: LayerReport, top: int, medium: str, screen: Screen) -> Iterator[RenderableType]:
    yield Text()
    yield flow(title(layer), screen, "bold")
    if not layer.calls:
        return
    grids = [over_positions(layer, top, screen.glyphs), over_features(layer, top, screen.glyphs)]
    for what, grid in zip(("position", "feature"), grids, strict=True):
        if grid is None:
            yield Text(f"No numbers by {what}: the layer's axes could not be told apart.", "dim")
        else:
            yield from drawn(worded(grid, medium), screen)
