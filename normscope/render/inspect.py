"""The tables of a report, for a terminal or in Markdown."""

from collections.abc import Iterator, Sequence

from normscope.render.glyphs import UNICODE, Glyphs
from normscope.render.grid import Section, reword_grid
from normscope.render.layer import feature_table, least_agreeing, position_table, title
from normscope.render.markdown import markdown_sections
from normscope.render.outliers import outliers_by_layer, recurring_outliers
from normscope.render.summary import details, headline, summary, workload
from normscope.render.terminal import Screen, render_sections
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
    `top` bounds the rows of the detailed tables.
    """
    return render_sections(sections(report, layers, top, verbose, screen.glyphs), screen)


def render_report_markdown(
    report: Report, *, layers: Sequence[str] = (), top: int = 10, verbose: bool = False
) -> str:
    """Return what `render_report` shows as GitHub-flavoured Markdown: every column, no name cut."""
    return markdown_sections(sections(report, layers, top, verbose, UNICODE))


def sections(
    report: Report, layers: Sequence[str], top: int, verbose: bool, glyphs: Glyphs
) -> Iterator[Section]:
    """Yield the section of all layers, then one for each of the `layers` in detail."""
    shown = list(layers) or least_agreeing(report)
    grids = [
        summary(report, shown, glyphs),
        details(report) if verbose else None,
        recurring_outliers(report, top),
        outliers_by_layer(report) if verbose else None,
    ]
    medium = report.run.medium
    yield Section([headline(report), workload(report)], [reword_grid(grid, medium) for grid in grids if grid])
    for name in shown:
        yield _layer_section(report.layers[name], top, medium, glyphs)


def _layer_section(layer: LayerReport, top: int, medium: str, glyphs: Glyphs) -> Section:
    grids = {"position": position_table(layer, top, glyphs), "feature": feature_table(layer, top, glyphs)}
    tables = [
        reword_grid(grid, medium)
        if grid
        else f"No numbers by {by}: the layer's axes could not be identified."
        for by, grid in grids.items()
    ]
    return Section([title(layer)], tables if layer.calls else [])
