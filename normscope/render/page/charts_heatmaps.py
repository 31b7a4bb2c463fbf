"""Heat maps: position by layer, feature by layer, and outlier features by layer."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from normscope.escaping import grouped
from normscope.render.grid import reword
from normscope.render.layer import SHORT_KINDS, distances, largest
from normscope.render.numbers import percent
from normscope.render.outliers import outlier_maximum, share_of_layers
from normscope.render.page import captions
from normscope.render.page.chart_style import (
    FEW_LAYERS,
    chart,
    layer_axes,
    layer_rows,
    layer_specification,
    log_legend,
    tooltips,
)
from normscope.render.page.figure import Figure, Slice, Tile, Value, positive
from normscope.render.page.parts import PagePart
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport, OutlierFeature, Report

# More cells in a row would be too narrow to see, so neighbours share one.
MAX_CELLS = 128
_MAX_OUTLIERS = 24
_THIN_ROW = 4  # pixels
_OUTLINE = "#8C8C8C"  # shows the darkest points on black, and the lightest on white


def short_kind(report: Report) -> str:
    """Return the page's name for the layers' own normalization: LN, RMS, or "the layer" for several kinds."""
    kinds = {SHORT_KINDS.get(layer.kind, "the layer") for layer in report.layers.values() if layer.calls}
    return kinds.pop() if len(kinds) == 1 else "the layer"


def positions(part: PagePart, report: Report) -> Figure | None:
    """Draw each layer's variance at each position, relative to its average over all tokens."""
    layers = part.numbered(report.layers)
    layers = [(i, layer) for i, layer in layers if layer.position is not None and len(layer.position.count)]
    if not layers:
        return None
    who = short_kind(report)
    ratios = [_relative(layer) for _, layer in layers]
    edges = _edges(max(map(len, ratios)), single=1)
    cells = [
        (i, low, high, _weighted_average(layer, ratio, low, high))
        for (i, layer), ratio in zip(layers, ratios, strict=True)
        for low, high in pairwise(edges)
        if low < len(ratio)
    ]
    columns = _cells(part, cells)
    numbers = max((layer.position.numbers.tolist() for _, layer in layers if layer.position), key=len)
    columns["position"] = [_span(numbers[low], _span_end(numbers, high)) for _, low, high, _ in cells]
    step = edges[2] - edges[1] if len(edges) > 2 else 1
    notes = ["1 is the layer's average over all tokens. BN per feature has one scale for all positions."]
    if step > 1:
        notes.append(
            f"Position 0 has a column of its own; each other column is the average of {step} positions."
        )
    # A special token or an attention sink can be a thousand times the rest, which would then have one colour.
    apart = not numbers[0] and report.run.special_tokens != "exclude" and len(edges) > 2
    if apart:
        notes.append(_FIRST_APART)
    scaled = [
        value for value, (_, low, _, _) in zip(columns["value"], cells, strict=True) if low or not apart
    ]
    colour = log_legend("times average", scaled, clamp=apart)
    heads = {"name": "layer", "position": "position", "value": "times average"}
    spreads = np.array([captions.relative_spread(layer) for _, layer in layers])
    return Figure(
        "positions",
        reword("Where in the text does the scale differ?", report.run.medium),
        _map("position", colour, heads, len(layers)),
        [Slice(columns, captions.positions([layer.name for _, layer in layers], ratios, who, numbers))],
        {"position": "position"},
        ["position.token_variance"],
        notes,
        pivot=("position", "name", "value"),
        tiles=[
            Tile(
                "Tokens' own variances differ by",
                captions.median(spreads, percent),
                f"1 sd at one position; {captions.by_layer(spreads, percent)}",
            )
        ]
        * bool(np.isfinite(spreads).any()),
    )


_FIRST_APART = (
    "Position 0, in many models a special token such as [CLS], does not set the scale of the colours; beyond "
    "the ends of the scale, it has the colours of the ends."
)


def features(part: PagePart, report: Report) -> Figure | None:
    """Draw how far each layer leaves each feature from BN's mean 0 and variance 1."""
    layers = [
        (i, layer, distances(layer.own_output))
        for i, layer in part.numbered(report.layers)
        if layer.own_output is not None and len(layer.own_output.mean)
    ]
    if not layers:
        return None
    who = short_kind(report)
    edges = _edges(max(len(distance) for _, _, distance in layers))
    picked = [
        (i, low, high, low + largest(distance[low:high], 1)[0], distance)
        for i, _, distance in layers
        for low, high in pairwise(edges)
        if low < len(distance)
    ]
    columns = _cells(part, [(i, low, high, d[feature]) for i, low, high, feature, d in picked])
    columns["feature"] = [feature for _, _, _, feature, _ in picked]
    columns["span"] = [_span(low, high) for _, low, high, _, _ in picked]
    colour = log_legend("distance from 0, 1", columns["value"])
    step = edges[1] - edges[0]
    notes = [f"{step} features share a column, which shows the one furthest from mean 0 and variance 1."]
    return Figure(
        "features",
        f"Which features does {who} leave unlike BN?",
        _map("feature", colour, {"name": "layer", "feature": "feature", "value": "distance"}, len(layers)),
        [Slice(columns, captions.features([layer for _, layer, _ in layers], who))],
        {"span": "features" if step > 1 else "feature"},
        ["own_output", "own_output.variance"],
        [*(notes if step > 1 else ()), _DISTANCE],
        pivot=("span", "name", "value"),
        tiles=_outlier_tiles(report),
    )


def _outlier_tiles(report: Report) -> list[Tile]:
    """Return how many features are outliers in many layers, where that was measured."""
    if not any(layer.outliers and layer.outliers.llm_int8 for layer in report.layers.values()):
        return []
    features = report.outlier_features
    about = "in a quarter of the layers or more"
    if features:
        about = f"feature {features[0].feature} in {share_of_layers(features[0])} layers"
    return [Tile("Features that stand out", grouped(len(features)), about)]


_DISTANCE = "distance = mean² + (sd - 1)² of what the layer gives before its scale and shift."


def outliers(part: PagePart, report: Report) -> Figure | None:
    """Draw the recurring outlier features in each layer where they stand out; None without any."""
    features = report.outlier_features[:_MAX_OUTLIERS]
    if not features:
        return None
    columns = _outlier_columns(part, report, features)
    order = list(dict.fromkeys(str(feature.feature) for feature in features))
    heads = {"feature": "feature", "name": "layer", "share": "share of tokens", "largest": "largest output"}
    count = len(set(columns["layer"]))
    sizes, largest = alt.Legend(orient="bottom", format="%", values=[0.1, 0.5, 1]), columns["largest"]
    scale = alt.Scale(domain=[0, 1], range=[0, 300 if count <= FEW_LAYERS else 60])
    drawn = (
        chart()
        .mark_point(filled=True, opacity=1, stroke=_OUTLINE, strokeWidth=1)
        .encode(
            size=alt.Size("share:Q", title="share of tokens", legend=sizes, scale=scale),
            color=log_legend("largest |output|", largest, field="largest"),
            tooltip=tooltips(heads, "share", "largest"),
            **layer_axes("feature:N", count, sort=order, title="feature", axis=alt.Axis(labelAngle=0)),
        )
    )
    more = len(report.outlier_features) - len(features)
    notes = ["Stands out: an output of 6 or more in size in 6% of the tokens, in a quarter of the layers."]
    notes += [f"{more} more features recur, in fewer layers."] if more > 0 else []
    return Figure(
        "outliers",
        "Which features stand out in many layers?",
        layer_specification(drawn, count),
        [Slice(columns, captions.outliers(report.outlier_features, len(report.layers)))],
        heads,
        ["outlier_features", "outliers.llm_int8"],
        notes,
    )


def _map(axis: str, colour: alt.Color, titles: Mapping[str, str], layers: int) -> dict[str, Any]:
    """Return the specification of a heat map whose cells reach from `low` to `high` of an axis."""
    scale = alt.Scale(nice=False, zero=True)
    cells = (
        chart()
        .mark_rect()
        .encode(
            x=alt.X("low:Q", title=axis, scale=scale, axis=alt.Axis(grid=False)),
            x2="high:Q",
            y=layer_rows(),
            color=colour,
            tooltip=tooltips(titles, "value"),
        )
    )
    return layer_specification(cells, layers, many=layers * _THIN_ROW)


def _cells(part: PagePart, cells: Sequence[tuple[int, int, int, float]]) -> dict[str, list[Value]]:
    return {
        **part.columns([number for number, _, _, _ in cells]),
        "low": [low for _, low, _, _ in cells],
        "high": [high for _, _, high, _ in cells],
        "value": positive(value for _, _, _, value in cells),
    }


def _edges(length: int, single: int = 0) -> list[int]:
    """Cut 0..length into at most MAX_CELLS spans of one width, after `single` spans of width 1."""
    step = max(1, math.ceil((length - single) / (MAX_CELLS - single)))
    return [*range(min(single, length)), *range(single, length, step), length]


def _relative(layer: LayerReport) -> Floats:
    """LN's average variance at each position over its average over all tokens, (T,)."""
    stats = layer.position
    assert stats is not None
    finite = np.isfinite(stats.token_variance)
    total = float(np.sum(stats.count[finite] * stats.token_variance[finite]))
    average = total / max(1, int(np.sum(stats.count[finite])))
    result: Floats = stats.token_variance / (average if average > 0 else math.nan)
    return result


def _weighted_average(layer: LayerReport, ratio: Floats, low: int, high: int) -> float:
    assert layer.position is not None
    weight, values = layer.position.count[low:high], ratio[low:high]
    usable = np.isfinite(values) & (weight > 0)
    return float(np.average(values[usable], weights=weight[usable])) if usable.any() else math.nan


def _span(low: int, high: int) -> str:
    return str(low) if high == low + 1 else f"{grouped(low)} to {grouped(high - 1)}"


def _span_end(numbers: Sequence[int], high: int) -> int:
    return numbers[high] if high < len(numbers) else numbers[-1] + 1


def _outlier_columns(
    part: PagePart, report: Report, features: Sequence[OutlierFeature]
) -> dict[str, list[Value]]:
    """Return a row for each feature in each layer in which it is an outlier."""
    cells = [
        (number, layer, feature)
        for number, layer in part.numbered(report.layers)
        for feature in features
        if layer.name in feature.layers
    ]
    return {
        **part.columns([number for number, _, _ in cells]),
        "feature": [str(feature.feature) for _, _, feature in cells],
        "share": positive(outlier_maximum(feature, [layer], "share") for _, layer, feature in cells),
        "largest": positive(outlier_maximum(feature, [layer], "largest") for _, layer, feature in cells),
    }
