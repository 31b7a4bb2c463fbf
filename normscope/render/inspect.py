"""The first screen of a report and its details, for a terminal or in Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from normscope.render.depth import depth_grids
from normscope.render.findings import cautions, findings
from normscope.render.glyphs import Glyphs
from normscope.render.grid import Grid, Section, reword_grid
from normscope.render.input_output import curve_sections
from normscope.render.layer import SHORT_KINDS, chosen_layers, feature_table, position_table, title
from normscope.render.layer_groups import choose_rows
from normscope.render.markdown import markdown_sections
from normscope.render.outliers import outliers_by_layer, recurring_outliers
from normscope.render.pooled import means_grid, pooled_grid
from normscope.render.summary import details, headline, layer_count, summary, workload
from normscope.render.terminal import Screen, render_sections
from normscope.results.inspect import LayerReport, Report

# Shows every column, as Markdown and notebooks do.
WIDE = Screen(width=300)
_RMSNORM = "rmsnorm: divides by the root mean square and subtracts no mean."


def render_report(
    report: Report,
    *,
    layers: Sequence[str] = (),
    top: int = 10,
    detailed: bool = False,
    depth: bool = False,
    every_layer: bool = False,
    verbose: bool = False,
    screen: Screen = Screen(),
) -> str:
    """Return findings and a table of the layers, and some layers in detail, as text with line ends.

    `layers` are the names of those in detail; `detailed` without any shows the layer that agrees least
    with BN. `top` is the maximum number of rows of the detailed tables. `depth` adds the residual stream
    along the blocks. Of many layers the tables have a few, or `every_layer`. The layers in detail are drawn
    if they have curves.
    """
    shown = {"detailed": detailed, "depth": depth, "every_layer": every_layer, "verbose": verbose}
    parts = [*sections(report, screen, layers, top, **shown), *curve_sections(report, layers, screen)]
    last = parts[-1]
    parts[-1] = replace(last, grids=[*last.grids, *_next_steps(report, last, detailed or bool(layers))])
    return render_sections(parts, screen)


def render_report_markdown(
    report: Report,
    *,
    layers: Sequence[str] = (),
    top: int = 10,
    detailed: bool = False,
    depth: bool = False,
    verbose: bool = False,
) -> str:
    """Return what `render_report` shows as GitHub-flavoured Markdown: every layer and column, no name cut."""
    shown = {"detailed": detailed, "depth": depth, "verbose": verbose}
    return markdown_sections(sections(report, WIDE, layers, top, **shown))


def sections(
    report: Report,
    screen: Screen,
    layers: Sequence[str] = (),
    top: int = 10,
    *,
    detailed: bool = False,
    depth: bool = False,
    every_layer: bool = True,
    verbose: bool = False,
) -> Iterator[Section]:
    """Yield the section of all layers, then one for each layer in detail, and one of the depth."""
    detailed, chosen = detailed or bool(layers), chosen_layers(report, layers)
    grids = [
        *_overview(report, [*chosen], screen, every=every_layer, detailed=detailed),
        details(report) if verbose else None,
        recurring_outliers(report, top) if detailed else None,
        outliers_by_layer(report) if verbose else None,
    ]
    medium = report.run.medium
    run = workload(report, brief=not detailed)
    facts = [*headline(report), layer_count(report), *run, *cautions(report.run)]
    lines = [facts, *([finding] for finding in findings(report, screen))]
    yield Section(lines, [reword_grid(grid, medium) for grid in grids if grid])
    for name, reason in chosen.items() if detailed else ():
        yield layer_section(report.layers[name], reason, top, medium, screen.glyphs)
    if depth:
        yield Section([["Along the depth"]], depth_grids(report, screen, every=every_layer))


def _overview(
    report: Report, shown: Sequence[str], screen: Screen, *, every: bool, detailed: bool
) -> list[Grid | None]:
    """Return the table of the layers, and of a few texts the tables of their tokens."""
    rows = choose_rows([*report.layers.values()], shown, every=every)
    table = summary(report, rows.layers, shown, screen)
    has_rms = any(layer.kind == "rmsnorm" for layer in report.layers.values())
    rms = [_RMSNORM] if detailed and has_rms else []
    table = replace(table, notes=[*table.notes, *rms, *rows.note(screen.glyphs.ellipsis)])
    return [table, *([pooled_grid(report.pooled), means_grid(report)] if report.pooled else [])]


def _next_steps(report: Report, last: Section, detailed: bool) -> list[str]:
    """Return the last line of the screen, after an empty line unless the list of layers is above."""
    details = "" if detailed else "--details, "
    apart = [""] if len(last.grids) != 1 else []
    can_swap = report.run.medium == "text" and any(x.kind in SHORT_KINDS for x in report.layers.values())
    swap = "; to try BN: normscope swap" if can_swap else ""
    return [*apart, f"more: {details}--plot, normscope explain agreement{swap}"]


def layer_section(layer: LayerReport, reason: str, top: int, medium: str, glyphs: Glyphs) -> Section:
    """Return the tables of one layer by position and by feature, of at most `top` rows."""
    grids = {"position": position_table(layer, top, glyphs), "feature": feature_table(layer, top, glyphs)}
    tables = [
        reword_grid(grid, medium)
        if grid
        else f"No numbers by {by}: the layer's axes could not be identified."
        for by, grid in grids.items()
    ]
    lines = [title(layer), *([[reason]] if reason else [])]
    return Section(lines, tables if layer.calls else [])
