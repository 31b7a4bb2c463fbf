"""Charts of one layer: its features, its positions, and its batch noise by size."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from normscope.escaping import grouped
from normscope.render.layer import distances
from normscope.render.page import captions as words
from normscope.render.page.chart_style import (
    BLUE,
    BN,
    GREEN,
    LN,
    VERMILLION,
    dashes,
    finished,
    log_scale,
    series,
    shapes,
    tips,
)
from normscope.render.page.charts_heatmaps import short_kind
from normscope.render.page.figure import DATA, Figure, Slice, Value, positive, rounded
from normscope.render.page.parts import PagePart
from normscope.results.batches import BatchReport, LayerNoise
from normscope.results.inspect import LayerReport, Report

_NAMED = 6  # features that the scatter names at most: those with the largest standard deviation
# Points of all layers together that a page holds, and the fewest of one layer that still show its shape.
MOST_POINTS, LEAST_POINTS = 1 << 20, 256
_FAR = 2.0  # and at least this one, where BN would leave 1

# What BN has for each position, and for all of them.
_BN = ("BN per position", "BN per feature")
_FEW = alt.Axis(tickCount=4)


def scatter(part: PagePart, report: Report) -> Figure | None:
    """Draw every feature of a layer: its spread in the input against the spread that the layer leaves."""
    who = short_kind(report)
    most = _most(part)
    slices = [_features(report.layers.get(name), who, most) for name in part.layers]
    widest = max((layer.features for layer in report.layers.values()), default=0)
    fewer = (
        f" Of more than {grouped(most)} features that many are drawn: half of them the furthest from 0, 1."
    )
    if not any(slices):
        return None
    names = ["other features", "outliers"]
    base = (
        alt.Chart(alt.NamedData(DATA))
        .transform_calculate(group=f"datum.outlier ? '{names[1]}' : '{names[0]}'")
        .transform_calculate(left="datum.named == 1 ? datum.feature : ''")
        .transform_calculate(right="datum.named == 2 ? datum.feature : ''")
    )
    x = alt.X("before:Q", title="sd in the input (log)", scale=log_scale(), axis=_FEW)
    y = alt.Y("after:Q", title=f"sd that {who} leaves (log)", scale=log_scale(), axis=_FEW)
    shown = tips(feature_n="feature", before_q="sd in the input", after_q="sd left", mean_q="mean left")
    points = base.mark_point(filled=True, size=36).encode(
        x=x,
        y=y,
        color=series("group", names, [BLUE, VERMILLION]),
        shape=shapes("group", names),
        opacity=alt.condition("datum.outlier", alt.value(1), alt.value(0.8)),
        tooltip=shown,
    )
    # Names on either side in turn, so that neighbours' do not meet.
    left = base.mark_text(align="right", dx=-7).encode(x=x, y=y, text="left:N")
    right = base.mark_text(align="left", dx=7).encode(x=x, y=y, text="right:N")
    return Figure(
        "scatter",
        f"{who} against BN, feature by feature",
        finished(points + left + right + _left_by_bn(), height=260),
        slices,
        {
            "feature": "feature",
            "before": "sd in the input",
            "after": "sd left",
            "mean": "mean left",
            "distance": "distance from 0, 1",
        },
        ["own_output", "own_output.variance", "feature.variance"],
        [
            f"Named: at most {_NAMED} that keep an sd of 2 or more. Outlier: 6 or more in 6% of the tokens."
            + (fewer if widest > most else "")
        ],
        per_layer=True,
    )


def _left_by_bn() -> Any:
    """Return the line at the standard deviation that BN would leave every feature."""
    rule = alt.Chart(alt.InlineData(values=[{"one": 1, "says": "BN would leave 1"}]))
    line = rule.mark_rule(strokeDash=[6, 4], color=BN, strokeWidth=1.5).encode(y=alt.Y("one:Q"))
    says = rule.mark_text(align="right", dy=-6, dx=-4, color=BN).encode(
        x=alt.value("width"), y=alt.Y("one:Q"), text="says:N"
    )
    return line + says


def profile(part: PagePart, report: Report) -> Figure | None:
    """Draw the variance of a layer over the positions, LN's average beside those that BN takes."""
    who = short_kind(report)
    slices = [_positions(report.layers.get(name), who) for name in part.layers]
    if not any(slices):
        return None
    names: list[Any] = [who, *_BN]
    chart = (
        alt.Chart(alt.NamedData(DATA))
        .transform_fold(names, as_=["side", "variance"])
        .encode(
            x=alt.X("position:Q", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False)),
            y=alt.Y("variance:Q", title="variance (log)", scale=log_scale(), axis=_FEW),
            color=series("side", names, [LN, BN, GREEN]),
            shape=shapes("side", names),
            tooltip=tips(position_n="position", side_n="variance of", variance_q="variance", texts_n="texts"),
        )
    )
    lines = chart.mark_line(strokeWidth=2).encode(strokeDash=dashes("side", names))
    return Figure(
        "profile",
        "The variance, position by position",
        finished(lines + chart.mark_point(filled=True, size=16, opacity=1), height=220),
        slices,
        {"position": "position", **{name: f"variance, {name}" for name in names}, "texts": "texts"},
        ["position.token_variance", "position.variance"],
        per_layer=True,
    )


def sizes(part: PagePart, report: BatchReport) -> Figure | None:
    """Draw how the noise of a layer's batch means falls with the size of the batch."""
    slices = [_sizes(report.layers.get(name)) for name in part.layers]
    if not any(slices):
        return None
    found = {each.order for layer in report.layers.values() for each in layer.sizes or ()}
    names = [said for order, said in words.ORDERS.items() if order in found]
    chart = alt.Chart(alt.NamedData(DATA)).encode(
        x=alt.X("size:Q", title="texts in a batch", scale=alt.Scale(type="log", base=2, nice=False)),
        y=alt.Y("noise:Q", title="noise of the mean (log)", scale=log_scale(), axis=_FEW),
        color=series("order", names, [BLUE, VERMILLION, GREEN], "batches"),
        shape=shapes("order", names, "batches"),
        tooltip=tips(size_n="texts", order_n="batches", noise_q="noise of the mean", sd_q="of the sd"),
    )
    return Figure(
        "sizes",
        "How far off are batches of each size?",
        finished(chart.mark_line() + chart.mark_point(filled=True, size=60, opacity=1), height=220),
        slices,
        {"size": "texts", "order": "batches", "noise": "noise of the mean", "sd": "noise of the sd"},
        ["tid.mean", "tid.variance"],
        per_layer=True,
    )


def _most(part: PagePart) -> int:
    """How many features of each layer are drawn, so that all layers together stay small enough to load."""
    return max(LEAST_POINTS, MOST_POINTS // max(1, len(part.layers)))


def _features(layer: LayerReport | None, who: str, most: int) -> Slice | None:
    if layer is None or layer.feature is None or layer.own_output is None:
        return None
    distance = distances(layer.own_output)
    large = layer.outliers.llm_int8 if layer.outliers else None
    outlying = set(large.features.tolist() if large else ())
    before, left = np.sqrt(layer.feature.variance), np.nan_to_num(np.sqrt(layer.own_output.variance))
    named = [i for i in np.argsort(-left, kind="stable")[:_NAMED].tolist() if left[i] >= _FAR]
    # Of two that are near, the one further to the right has its name on the right.
    named.sort(key=lambda i: -before[i])
    numbers = list(range(len(distance)))
    if len(numbers) > most:
        # Half of them are those furthest from BN's, which the chart is about; the others are evenly spaced.
        furthest = np.argsort(-np.nan_to_num(distance, nan=-1.0), kind="stable")[: most // 2].tolist()
        spaced = np.linspace(0, len(numbers) - 1, most - most // 2).round().astype(int).tolist()
        numbers = sorted({*furthest, *spaced, *named})
    columns: dict[str, Sequence[Value]] = {
        "feature": [*numbers],
        "before": positive(before[numbers]),
        "after": positive(np.sqrt(layer.own_output.variance[numbers])),
        "mean": rounded(layer.own_output.mean[numbers]),
        "distance": rounded(distance[numbers]),
        "outlier": [int(i in outlying) for i in numbers],
        "named": [2 - named.index(i) % 2 if i in named else 0 for i in numbers],
    }
    return Slice(columns, words.scatter(layer, who))


def _positions(layer: LayerReport | None, who: str) -> Slice | None:
    stats = layer.position if layer is not None else None
    if layer is None or stats is None or not len(stats.count):
        return None
    reached = stats.count > 0
    numbers = stats.numbers[reached].tolist()
    one = float(np.mean(layer.feature.variance)) if layer.feature is not None else math.nan
    columns: dict[str, Sequence[Value]] = {
        "position": numbers,
        who: positive(stats.token_variance[reached]),
        _BN[0]: positive(stats.variance[reached]),
        _BN[1]: positive([one] * len(numbers)),
        "texts": stats.count[reached].tolist(),
    }
    return Slice(columns, words.profile(layer, who))


def _sizes(layer: LayerNoise | None) -> Slice | None:
    found = [each for each in (layer.sizes or () if layer is not None else ()) if each.order in words.ORDERS]
    if layer is None or not found:
        return None
    by: dict[str, tuple[list[int], list[float]]] = {}
    for each in sorted(found, key=lambda each: each.batch_size):
        at, noise = by.setdefault(each.order, ([], []))
        at.append(each.batch_size)
        noise.append(each.tid.mean.mean)
    columns: dict[str, Sequence[Value]] = {
        "size": [each.batch_size for each in found],
        "order": [words.ORDERS[each.order] for each in found],
        "noise": positive(each.tid.mean.mean for each in found),
        "sd": positive(each.tid.variance.mean for each in found),
    }
    return Slice(columns, words.sizes(layer.name, by))


def start(part: PagePart) -> int:
    """Return the layer that is chosen at first: the one least like BN, or else the first."""
    agreements = [
        (layer.agreement or {}).get("feature", math.nan)
        for layer in map((part.inspect.layers if part.inspect else {}).get, part.layers)
        if layer is not None
    ]
    known = [value for value in agreements if math.isfinite(value)]
    return agreements.index(min(known)) if known else 0
