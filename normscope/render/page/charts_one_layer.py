"""Charts of one layer: its features, its positions, and its batch noise by size."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from normscope.escaping import grouped
from normscope.render.batch_composition import ORDERS
from normscope.render.layer import distances, largest
from normscope.render.page import captions
from normscope.render.page.chart_style import BN, chart, dashes, log_scale, series, specification, tooltips
from normscope.render.page.charts_heatmaps import short_kind
from normscope.render.page.figure import Figure, Slice, Value, positive, rounded
from normscope.render.page.parts import PagePart
from normscope.results.batches import BatchReport, LayerNoise
from normscope.results.inspect import LayerReport, Report

# The scatter names the features with the largest sd after the layer, of those that keep at least this sd.
_MAX_NAMED, _MIN_NAMED_SD = 6, 2.0
# The points of all layers that a page holds, and the fewest of one layer that still show its shape.
MAX_POINTS, MIN_LAYER_POINTS = 1 << 20, 256

_BN = ("BN per position", "BN per feature")
_FEW_TICKS = alt.Axis(tickCount=4)


def scatter(part: PagePart, report: Report) -> Figure | None:
    """Draw each feature of a layer: its sd in the input against the sd that the layer leaves."""
    who = short_kind(report)
    # All layers together must stay small enough to load.
    maximum = max(MIN_LAYER_POINTS, MAX_POINTS // max(1, len(part.layers)))
    slices = [_feature_slice(report.layers.get(name), who, maximum) for name in part.layers]
    widest = max((layer.features for layer in report.layers.values()), default=0)
    note = (
        f"Named: at most {_MAX_NAMED} features that keep an sd of 2 or more. "
        "Outliers: an output of 6 or more in at least 6% of the tokens."
    )
    if widest > maximum:
        note += f" Of more features only {grouped(maximum)} are drawn, half of them those furthest from 0, 1."
    if not any(slices):
        return None
    names = ["other features", "outliers"]
    base = (
        chart()
        .transform_calculate(group=f"datum.outlier ? '{names[1]}' : '{names[0]}'")
        .transform_calculate(left="datum.named == 1 ? datum.feature : ''")
        .transform_calculate(right="datum.named == 2 ? datum.feature : ''")
    )
    x = alt.X("before:Q", title="sd in the input (log)", scale=log_scale(), axis=_FEW_TICKS)
    y = alt.Y("after:Q", title=f"sd that {who} leaves (log)", scale=log_scale(), axis=_FEW_TICKS)
    titles = {
        "feature": "feature",
        "before": "sd in the input",
        "after": "sd left",
        "mean": "mean left",
    }
    points = base.mark_point(filled=True, size=36).encode(
        x=x,
        y=y,
        opacity=alt.condition("datum.outlier", alt.value(1), alt.value(0.8)),
        tooltip=tooltips(titles, "before", "after", "mean"),
        **series("group", names),
    )
    # Names alternate between the two sides: those of neighbours would overlap.
    left = base.mark_text(align="right", dx=-7).encode(x=x, y=y, text="left:N")
    right = base.mark_text(align="left", dx=7).encode(x=x, y=y, text="right:N")
    return Figure(
        "scatter",
        f"{who} against BN, feature by feature",
        specification(points + left + right + _line_of_bn(), 260),
        slices,
        {**titles, "distance": "distance from 0, 1"},
        ["own_output", "own_output.variance", "feature.variance"],
        [note],
        per_layer=True,
    )


def _line_of_bn() -> Any:
    """Return the line at the standard deviation that BN would leave every feature."""
    rule = alt.Chart(alt.InlineData(values=[{"one": 1, "says": "BN would leave 1"}]))
    line = rule.mark_rule(strokeDash=[6, 4], color=BN, strokeWidth=1.5).encode(y=alt.Y("one:Q"))
    says = rule.mark_text(align="right", dy=-6, dx=-4, color=BN).encode(
        x=alt.value("width"), y=alt.Y("one:Q"), text="says:N"
    )
    return line + says


def profile(part: PagePart, report: Report) -> Figure | None:
    """Draw the variance of a layer over the positions: LN's average, and the two that BN takes."""
    who = short_kind(report)
    slices = [_position_slice(report.layers.get(name), who) for name in part.layers]
    if not any(slices):
        return None
    names: list[Any] = [who, *_BN]
    titles = {"position": "position", "side": "variance of", "variance": "variance", "texts": "texts"}
    base = (
        chart()
        .transform_fold(names, as_=["side", "variance"])
        .encode(
            x=alt.X("position:Q", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False)),
            y=alt.Y("variance:Q", title="variance (log)", scale=log_scale(), axis=_FEW_TICKS),
            tooltip=tooltips(titles, "variance"),
            **series("side", names),
        )
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dashes("side", names))
    return Figure(
        "profile",
        "The variance, position by position",
        specification(lines + base.mark_point(filled=True, size=16, opacity=1), 220),
        slices,
        {"position": "position", **{name: f"variance, {name}" for name in names}, "texts": "texts"},
        ["position.token_variance", "position.variance"],
        per_layer=True,
    )


def sizes(part: PagePart, report: BatchReport) -> Figure | None:
    """Draw how the noise of a layer's batch means falls with the size of the batch."""
    slices = [_size_slice(report.layers.get(name)) for name in part.layers]
    if not any(slices):
        return None
    orders = {row.order for layer in report.layers.values() for row in layer.sizes or ()}
    names = [name for order, name in ORDERS.items() if order in orders]
    heads = {"size": "texts", "order": "batches", "noise": "noise of the mean", "sd": "noise of the sd"}
    base = chart().encode(
        x=alt.X("size:Q", title="texts in a batch", scale=alt.Scale(type="log", base=2, nice=False)),
        y=alt.Y("noise:Q", title="noise of the mean (log)", scale=log_scale(), axis=_FEW_TICKS),
        tooltip=tooltips(heads, "noise", "sd"),
        **series("order", names, "batches"),
    )
    return Figure(
        "sizes",
        "How far off are batches of each size?",
        specification(base.mark_line() + base.mark_point(filled=True, size=60, opacity=1), 220),
        slices,
        heads,
        ["tid.mean", "tid.variance"],
        per_layer=True,
    )


def _feature_slice(layer: LayerReport | None, who: str, maximum: int) -> Slice | None:
    if layer is None or layer.feature is None or layer.own_output is None:
        return None
    distance = distances(layer.own_output)
    large = layer.outliers.llm_int8 if layer.outliers else None
    outliers = set(large.features.tolist() if large else ())
    before, left = np.sqrt(layer.feature.variance), np.nan_to_num(np.sqrt(layer.own_output.variance))
    named = [i for i in largest(left, _MAX_NAMED) if left[i] >= _MIN_NAMED_SD]
    # Of two neighbours, the one further to the right has its name on the right.
    named.sort(key=lambda i: -before[i])
    numbers = list(range(len(distance)))
    if len(numbers) > maximum:
        # The chart is about the features furthest from BN's, so they are half; the others are evenly spaced.
        furthest = largest(distance, maximum // 2)
        spaced = np.linspace(0, len(numbers) - 1, maximum - maximum // 2).round().astype(int).tolist()
        numbers = sorted({*furthest, *spaced, *named})
    columns: dict[str, Sequence[Value]] = {
        "feature": [*numbers],
        "before": positive(before[numbers]),
        "after": positive(np.sqrt(layer.own_output.variance[numbers])),
        "mean": rounded(layer.own_output.mean[numbers]),
        "distance": rounded(distance[numbers]),
        "outlier": [int(i in outliers) for i in numbers],
        "named": [2 - named.index(i) % 2 if i in named else 0 for i in numbers],
    }
    return Slice(columns, captions.scatter(layer, who))


def _position_slice(layer: LayerReport | None, who: str) -> Slice | None:
    stats = layer.position if layer is not None else None
    if layer is None or stats is None or not len(stats.count):
        return None
    reached = stats.count > 0
    numbers = stats.numbers[reached].tolist()
    per_feature = float(np.mean(layer.feature.variance)) if layer.feature is not None else math.nan
    columns: dict[str, Sequence[Value]] = {
        "position": numbers,
        who: positive(stats.token_variance[reached]),
        _BN[0]: positive(stats.variance[reached]),
        _BN[1]: positive([per_feature] * len(numbers)),
        "texts": stats.count[reached].tolist(),
    }
    return Slice(columns, captions.profile(layer, who))


def _size_slice(layer: LayerNoise | None) -> Slice | None:
    rows = [row for row in (layer.sizes or () if layer is not None else ()) if row.order in ORDERS]
    if layer is None or not rows:
        return None
    columns: dict[str, Sequence[Value]] = {
        "size": [row.batch_size for row in rows],
        "order": [ORDERS[row.order] for row in rows],
        "noise": positive(row.tid.mean.mean for row in rows),
        "sd": positive(row.tid.variance.mean for row in rows),
    }
    return Slice(columns, captions.sizes(layer.name, rows))
