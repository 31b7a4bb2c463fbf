"""Terminal plots of a report: bars by layer, heat maps of positions and features, curves."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from normscope.escaping import counted, grouped
from normscope.render.curves import Curve, curve_grid
from normscope.render.grid import Column, Grid, reword, reword_grid
from normscope.render.heatmap import HeatMap, draw_heat_map
from normscope.render.input_output import curve_picture
from normscope.render.layer import SHORT_KINDS, chosen_layers, feature_table, position_table, title
from normscope.render.numbers import align, aligned, percent
from normscope.render.outliers import recurring_outliers
from normscope.render.sparklines import relative_by_feature, relative_by_position
from normscope.render.summary import NOTES, agreement, explained_share, fit_r2, headline, workload
from normscope.render.terminal import Screen, draw_facts, draw_grid, render_parts
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport, Report

_MIN_BAR, _MAX_BAR = 14, 30  # cells


def render_plots(
    report: Report, *, layers: Sequence[str] = (), tables: int = 0, screen: Screen = Screen()
) -> str:
    """Return the report as bars, heat maps and curves, as text with line ends.

    `layers` are the names of those whose curves are drawn; without any, the layer that agrees least
    with BN. `tables` is the maximum number of rows of the detailed tables below the drawings; 0 is none.
    """
    return render_parts(_parts(report, chosen_layers(report, layers), tables, screen), screen)


def _parts(report: Report, shown: Mapping[str, str], top: int, screen: Screen) -> Iterator[RenderableType]:
    medium = report.run.medium
    yield from draw_facts([headline(report), workload(report)], screen)
    yield from draw_grid(reword_grid(_layer_bars(report, shown, screen), medium), screen)
    for heat_map in (position_map(report), feature_map(report)):
        yield from draw_heat_map(heat_map, screen) if heat_map else ()
    outliers = recurring_outliers(report, top) if top else None
    yield from draw_grid(outliers, screen) if outliers else ()
    for name, reason in shown.items():
        layer = report.layers[name]
        yield Text()
        yield from draw_facts([title(layer), *([[reason]] if reason else [])], screen)
        curves = [
            _position_curves(layer, medium, screen),
            _feature_curves(layer, screen),
            curve_picture(layer, screen),
        ]
        tables = (
            [table(layer, top, screen.glyphs) for table in (position_table, feature_table)] if top else []
        )
        for grid in curves + tables:
            yield from draw_grid(reword_grid(grid, medium), screen) if grid else ()


def _layer_bars(report: Report, shown: Collection[str], screen: Screen) -> Grid:
    """Return the table of all layers as bars from 0 to 1: agreement, and shares of explained variance."""
    layers = list(report.layers.values())
    width = min(max((screen.width - 50) // 2, _MIN_BAR), _MAX_BAR)

    def bars(written: Sequence[str], values: Sequence[float]) -> list[str]:
        return screen.glyphs.bars_after(written, values, width)

    def explained(title: str, by: str, rank: int) -> Column:
        values = [explained_share(layer, by) for layer in layers]
        return Column(title, "explains", bars(align(map(percent, values)), values), rank=rank, drawn=True)

    agreements = [agreement(layer) for layer in layers]
    fits = [fit_r2(layer) for layer in layers]
    words = any(layer.explained and layer.explained.token for layer in layers)
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        Column("agreement", "with BN", bars(aligned(agreements), agreements), "bn", drawn=True),
        explained("position", "position", 1),
        explained("text", "sequence", 3),
        *([explained("word", "token", 2)] if words else []),
        Column("best BN", "fit r2", bars(aligned(fits), fits), "bn", rank=4, drawn=True),
    ]
    strong = frozenset(i for i, layer in enumerate(layers) if layer.name in shown)
    faint = frozenset(i for i, layer in enumerate(layers) if not layer.calls)
    heading = counted(len(layers), "normalization layer")
    return Grid(heading, columns, ["Every bar is from 0 to 1.", *NOTES], strong, faint)


def position_map(report: Report) -> HeatMap | None:
    """Return the map of BN's variance at each position, relative to the layer's own; None without any."""
    layers = [layer for layer in report.layers.values() if layer.position and len(layer.position.count)]
    if not layers:
        return None
    return HeatMap(
        "BN's variance by position",
        [layer.name for layer in layers],
        _rows([relative_by_position(layer) for layer in layers]),
        "position",
        "times the variance of the whole layer",
        late=True,
        notes=["A row of one shade: one variance would do for all positions."],
        numbers=_longest_axis(layers),
    )


def feature_map(report: Report) -> HeatMap | None:
    """Return the map of BN's sd of each feature, relative to the layer's median; None without any.

    The map holds only the layers with the most common number of features, so that a column means one thing.
    """
    measured = [layer for layer in report.layers.values() if layer.feature and len(layer.feature.variance)]
    widths = [layer.features for layer in measured]
    if not widths:
        return None
    width = max(set(widths), key=lambda width: (widths.count(width), width))
    layers = [layer for layer in measured if layer.features == width]
    left_out = len(measured) - len(layers)
    notes = ["A column that stands out in many rows: a feature that is large throughout."]
    if left_out:
        notes.append(f"{counted(left_out, 'layer')} of other widths left out.")
    return HeatMap(
        f"BN's sd by feature, {grouped(width)} features",
        [layer.name for layer in layers],
        _rows([relative_by_feature(layer) for layer in layers]),
        "feature",
        "times the median feature of the layer",
        by="max",
        notes=notes,
    )


def _position_curves(layer: LayerReport, medium: str, screen: Screen) -> Grid | None:
    """Return one layer's numbers along the positions as curves, LN's next to BN's; None without any."""
    stats = layer.position
    if stats is None or not len(stats.count):
        return None
    spread = stats.token_variance_std
    curves = [
        Curve(reword("texts", medium), stats.count.astype(np.float64)),
        Curve("LN mean", stats.token_mean),
        Curve("BN mean", stats.mean),
        Curve("LN variance", stats.token_variance, log=True),
        *([Curve("LN variance sd", spread, log=True)] if spread is not None else []),
        *([] if stats.far is None else [Curve("2x off", stats.far)]),
        Curve("BN variance", stats.variance, log=True),
    ]
    notes = [reword("LN: average and sd of the tokens' own. BN: over all texts and features there.", medium)]
    return curve_grid("By position", curves, "position", screen, notes, stats.numbers.tolist())


def _feature_curves(layer: LayerReport, screen: Screen) -> Grid | None:
    """Return one layer's features as sorted curves: the input's moments, and those that the layer leaves."""
    stats, output = layer.feature, layer.own_output
    if stats is None or not len(stats.variance):
        return None
    who = SHORT_KINDS.get(layer.kind, "layer")
    curves = [
        Curve("BN mean, input", np.sort(stats.mean)),
        Curve("BN sd, input", np.sort(np.sqrt(stats.variance)), log=True),
    ]
    if output:
        curves.append(Curve(f"{who} leaves mean", np.sort(output.mean)))
        curves.append(Curve(f"{who} leaves sd", np.sort(np.sqrt(output.variance)), log=True))
    notes = ["BN would leave mean 0 and sd 1 in every feature."] if output else []
    return curve_grid("By feature, each row sorted", curves, "rank", screen, notes)


def _longest_axis(layers: Sequence[LayerReport]) -> list[int]:
    numbers = [layer.position.numbers.tolist() for layer in layers if layer.position]
    return max(numbers, key=len)


def _rows(rows: Sequence[Floats]) -> Floats:
    """Put rows of different lengths into one array, NaN where one ends early."""
    table = np.full((len(rows), max(map(len, rows))), math.nan)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
