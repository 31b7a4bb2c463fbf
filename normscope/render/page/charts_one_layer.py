"""Charts of one layer: its features, its positions, and its batch noise by size."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from normscope.escaping import grouped
from normscope.render.batch_composition import ORDERS
from normscope.render.grid import reword
from normscope.render.layer import distances, largest
from normscope.render.page import captions
from normscope.render.page.chart_style import (
    BN,
    BN_SHADES,
    INK,
    LN,
    chart,
    line_series,
    log_axis,
    series,
    specification,
    tooltips,
)
from normscope.render.page.charts_heatmaps import short_kind
from normscope.render.page.figure import DATA, Figure, Slice, Value, positive, rounded
from normscope.render.page.parts import PagePart
from normscope.results.batches import BatchReport, LayerNoise
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport, Report

# The scatter names the features with the largest sd after the layer, of those that keep at least this sd.
_MAX_NAMED, _MIN_NAMED_SD = 6, 2.0
# The points of all layers that a page holds, and the fewest of one layer that still show its shape.
MAX_POINTS, MIN_LAYER_POINTS = 1 << 20, 256
# The side of a point on which its number stands, and the number's size as a share of the chart's.
_LEFT, _RIGHT, _DIGIT, _LINE, _GAP = 2, 1, 0.025, 0.06, 0.01
_MAX_DOTS = 40  # of a curve; between more there is no room

_BN = ("BN per position", "BN per feature")


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
        .transform_calculate(right=f"datum.named == {_RIGHT} ? datum.feature : ''")
        .transform_calculate(left=f"datum.named == {_LEFT} ? datum.feature : ''")
    )
    x = alt.X("before:Q", **log_axis("x", "sd in the input"))
    y = alt.Y("after:Q", **log_axis("y", f"sd that {who} leaves"))
    titles = {
        "feature": "feature",
        "before": "sd in the input",
        "after": "sd left",
        "mean": "mean left",
    }
    # The legend names outliers only where the chosen layer has some.
    in_legend = alt.ExprRef(f"slice({names}, 0, 1 + max(0, extent(pluck(data('{DATA}'), 'outlier'))[1]))")
    points = base.mark_point(filled=True, size=36).encode(
        x=x,
        y=y,
        opacity=alt.condition("datum.outlier", alt.value(1), alt.value(0.7)),
        tooltip=tooltips(titles, "before", "after", "mean"),
        **series("group", names, (LN, INK), values=in_legend),
    )
    left = base.mark_text(align="right", dx=-7).encode(x=x, y=y, text="left:N")
    right = base.mark_text(align="left", dx=7).encode(x=x, y=y, text="right:N")
    return Figure(
        "scatter",
        captions.begin(f"{who} against BN, feature by feature"),
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
    # At the left the points are below the line: a feature with a small sd keeps a small one.
    says = rule.mark_text(align="left", dy=-6, dx=4, color=BN).encode(
        x=alt.value(0), y=alt.Y("one:Q"), text="says:N"
    )
    return line + says


def profile(part: PagePart, report: Report) -> Figure | None:
    """Draw the variance of a layer over the positions: LN's average, and the two that BN takes."""
    who = short_kind(report)
    slices = [_position_slice(report.layers.get(name), who) for name in part.layers]
    if not any(slices):
        return None
    names: list[Any] = [who, *_BN]
    spread = f"sd of the tokens' {who} variances"
    texts = reword("texts", report.run.medium)
    titles = {"position": "position", "side": "variance of", "variance": "variance", "texts": texts}
    x = alt.X("position:Q", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False))
    y = log_axis("y", "variance")
    base = (
        chart()
        .transform_fold(names, as_=["side", "variance"])
        .encode(x=x, y=alt.Y("variance:Q", **y), **line_series("side", names, (LN, BN, BN)))
    )
    dots = max(len(each.columns["position"]) for each in slices if each) <= _MAX_DOTS
    points = base.mark_point(filled=True, size=30, opacity=float(dots)).encode(
        strokeDash=alt.value([1, 0]), strokeWidth=alt.value(0), tooltip=tooltips(titles, "variance")
    )
    band = chart().mark_area(color=LN, opacity=0.25).encode(x=x, y=alt.Y("low:Q", **y), y2="high:Q")
    with_spread = any(each and any(each.columns["sd"]) for each in slices)
    return Figure(
        "profile",
        "The variance, position by position",
        specification(band + base.mark_line() + points, 260),
        slices,
        {
            "position": "position",
            **{name: f"variance, {name}" for name in names},
            "sd": spread,
            "far": "tokens over 2x off BN's one",
            "texts": texts,
        },
        ["position.token_variance", "position.token_variance_std", "position.far", "position.variance"],
        [
            captions.begin(f"{who} is the tokens' average; the band around it is 1 sd of the tokens' own ")
            + "variances, cut where it would reach 0."
        ]
        * with_spread,
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
        y=alt.Y("noise:Q", **log_axis("y", "noise of the mean, in sd")),
        tooltip=tooltips(heads, "noise", "sd"),
        **series("order", names, BN_SHADES, "batches"),
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
    places = _place_names(named, before, left)
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
        "named": [places.get(i, 0) for i in numbers],
    }
    return Slice(columns, captions.scatter(layer, who))


def _place_names(features: Sequence[int], before: Floats, after: Floats) -> dict[int, int]:
    """Return the side of its point on which each feature's number stands; without room it is left out."""
    across, up = _on_log_axis(before), _on_log_axis(after)
    places: dict[int, int] = {}
    taken = [(across[i] - _GAP, across[i] + _GAP, up[i]) for i in features]
    for i in features:
        width = _DIGIT * len(str(i))
        for side, start in ((_RIGHT, across[i] + 1.1 * _GAP), (_LEFT, across[i] - 1.1 * _GAP - width)):
            if not any(
                low < start + width and high > start and abs(height - up[i]) < _LINE
                for low, high, height in taken
            ):
                taken.append((start, start + width, up[i]))
                places[i] = side
                break
    return places


def _on_log_axis(values: Floats) -> Floats:
    """Return positive numbers as shares of the length of a log axis that is as long as they need."""
    logarithms: Floats = np.log(np.where(values > 0, values, np.nan))
    finite = logarithms[np.isfinite(logarithms)]
    return logarithms / ((np.ptp(finite) if len(finite) else 0.0) or 1.0)


def _position_slice(layer: LayerReport | None, who: str) -> Slice | None:
    stats = layer.position if layer is not None else None
    if layer is None or stats is None or not len(stats.count):
        return None
    reached = stats.count > 0
    numbers = stats.numbers[reached].tolist()
    per_feature = float(np.mean(layer.feature.variance)) if layer.feature is not None else math.nan
    average, variance = stats.token_variance[reached], stats.variance[reached]
    spread = np.full(len(average), math.nan)
    if stats.token_variance_std is not None:
        spread = stats.token_variance_std[reached]
    curves = [value for values in (average, variance, [per_feature]) for value in values if value > 0]
    floor = min(curves, default=1.0) / 2  # a log axis has no room for 0
    far = np.full(len(average), math.nan) if stats.far is None else stats.far[reached]
    columns: dict[str, Sequence[Value]] = {
        "position": numbers,
        who: positive(average),
        _BN[0]: positive(variance),
        _BN[1]: positive([per_feature] * len(numbers)),
        "sd": rounded(spread),
        "far": rounded(far),
        "low": positive(np.maximum(average - spread, floor)),
        "high": positive(average + spread),
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
    return Slice(columns, captions.sizes(rows))
