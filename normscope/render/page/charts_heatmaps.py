"""Heat maps: position by layer, feature by layer, and outlier features by layer."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from normscope.escaping import grouped
from normscope.render.layer import SHORT_KINDS, distances
from normscope.render.page import captions as words
from normscope.render.page.chart_style import chosen, finished, layer_axis, tips
from normscope.render.page.figure import DATA, Figure, Slice, Value, positive
from normscope.render.page.parts import PagePart
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport, OutlierFeature, Report

# More cells in a row are narrower than can be seen, so some share one.
MOST_CELLS = 128
_MOST_OUTLIERS = 24


def short_kind(report: Report) -> str:
    """Return what the page calls the layers' own way: LN, RMS, or "the layer" where kinds differ."""
    kinds = {SHORT_KINDS.get(layer.kind, "the layer") for layer in report.layers.values() if layer.calls}
    return kinds.pop() if len(kinds) == 1 else "the layer"


def positions(part: PagePart, report: Report) -> Figure | None:
    """Draw the scale that each layer takes at each position, relative to its average over all tokens."""
    found = part.numbered(report.layers)
    found = [(i, layer) for i, layer in found if layer.position is not None and len(layer.position.count)]
    if not found:
        return None
    who = short_kind(report)
    ratios = [_relative(layer) for _, layer in found]
    edges = _edges(max(map(len, ratios)), single=1)
    cells = [
        (i, low, high, _weighted(layer, ratio, low, high))
        for (i, layer), ratio in zip(found, ratios, strict=True)
        for low, high in pairwise(edges)
        if low < len(ratio)
    ]
    columns = _cells(part, cells)
    numbers = max((layer.position.numbers.tolist() for _, layer in found if layer.position), key=len)
    columns["position"] = [_span(numbers[low], _end(numbers, high)) for _, low, high, _ in cells]
    label = "times average"
    step = edges[2] - edges[1] if len(edges) > 2 else 1
    notes = ["1 is the layer's average over all tokens. BN per feature has one scale for all positions."]
    if step > 1:
        notes.append(
            f"Position 0 has a column of its own; of the others, {step} share one, as their average."
        )
    return Figure(
        "positions",
        "Where in the text does the scale differ?",
        _map("position", label, tips(name_n="layer", position_n="position", value_q=label), len(found)),
        [Slice(columns, words.positions([layer.name for _, layer in found], ratios, who, numbers))],
        {"position": "position"},
        ["position.token_variance"],
        notes,
        pivot=("position", "name", "value"),
    )


def features(part: PagePart, report: Report) -> Figure | None:
    """Draw how far each layer leaves each feature from BN's mean 0 and variance 1."""
    found = part.numbered(report.layers)
    known = [(i, layer, distances(layer.own_output)) for i, layer in found if layer.own_output is not None]
    known = [each for each in known if len(each[2])]
    if not known:
        return None
    who = short_kind(report)
    edges = _edges(max(len(distance) for _, _, distance in known))
    picked = [
        (i, low, high, low + _furthest(distance[low:high]), distance)
        for i, _, distance in known
        for low, high in pairwise(edges)
        if low < len(distance)
    ]
    columns = _cells(part, [(i, low, high, d[feature]) for i, low, high, feature, d in picked])
    columns["feature"] = [feature for _, _, _, feature, _ in picked]
    columns["span"] = [_span(low, high) for _, low, high, _, _ in picked]
    label = "distance from 0, 1"
    step = edges[1] - edges[0]
    notes = [f"{step} features share a column: the one furthest from 0 and 1 gives its colour, and is named."]
    return Figure(
        "features",
        f"Which features does {who} leave unlike BN?",
        _map("feature", label, tips(name_n="layer", feature_n="feature", value_q="distance"), len(known)),
        [Slice(columns, words.features([layer for _, layer, _ in known], who))],
        {"span": "features" if step > 1 else "feature"},
        ["own_output", "own_output.variance"],
        [*(notes if step > 1 else ()), "distance = mean^2 + (sd - 1)^2 of the layer's own output."],
        pivot=("span", "name", "value"),
    )


def outliers(part: PagePart, report: Report) -> Figure | None:
    """Draw in which layers the recurring outlier features stand out, and how far; None without any."""
    features = report.outlier_features[:_MOST_OUTLIERS]
    if not features:
        return None
    columns = _standing_out(part, report, features)
    order = [str(each.feature) for each in features]
    chart = (
        alt.Chart(alt.NamedData(DATA))
        .mark_point(filled=True, opacity=1)
        .encode(
            x=alt.X(
                "feature:N", sort=list(dict.fromkeys(order)), title="feature", axis=alt.Axis(labelAngle=0)
            ),
            y=layer_axis(),
            size=alt.Size(
                "share:Q",
                title="share of tokens",
                legend=alt.Legend(orient="bottom", format="%", tickCount=3),
            ),
            color=alt.Color("largest:Q", title="largest |output|", scale=_VIRIDIS, legend=_LEGEND),
            tooltip=tips(feature_n="feature", name_n="layer", share_p="share of tokens", largest_q="largest"),
        )
    )
    more = len(report.outlier_features) - len(features)
    notes = [f"{more} more features recur, in fewer layers."] if more > 0 else []
    return Figure(
        "outliers",
        "Which features stand out in layer after layer?",
        finished(chart.add_params(chosen()), len(set(columns["layer"]))),
        [Slice(columns, words.outliers(report.outlier_features, len(report.layers)))],
        {"feature": "feature", "name": "layer", "share": "share of tokens", "largest": "largest output"},
        ["outlier_features", "outliers.llm_int8"],
        notes,
    )


_LEGEND = alt.Legend(orient="top", gradientLength=160, titleLimit=280, tickCount=3, format="~g")
_VIRIDIS = alt.Scale(scheme="viridis")


def _map(axis: str, label: str, tooltip: list[alt.Tooltip], layers: int) -> dict[str, Any]:
    """Return the specification of a heat map whose cells reach from `low` to `high` of an axis."""
    x = alt.X("low:Q", title=axis, scale=alt.Scale(nice=False, zero=True), axis=alt.Axis(grid=False))
    scale = alt.Scale(type="log", scheme="viridis")
    base = alt.Chart(alt.NamedData(DATA)).encode(y=layer_axis())
    cells = base.mark_rect().encode(
        x=x,
        x2="high:Q",
        color=alt.Color("value:Q", title=f"{label} (log)", scale=scale, legend=_LEGEND),
        tooltip=tooltip,
    )
    return finished(cells.add_params(chosen()), layers)


def _cells(part: PagePart, cells: Sequence[tuple[int, int, int, float]]) -> dict[str, list[Value]]:
    return {
        **part.columns([number for number, _, _, _ in cells]),
        "low": [low for _, low, _, _ in cells],
        "high": [high for _, _, high, _ in cells],
        "value": positive(value for _, _, _, value in cells),
    }


def _edges(length: int, single: int = 0) -> list[int]:
    """Cut 0..length into at most MOST_CELLS spans of one width, after so many that are single."""
    step = max(1, math.ceil((length - single) / (MOST_CELLS - single)))
    return [*range(min(single, length)), *range(single, length, step), length]


def _relative(layer: LayerReport) -> Floats:
    """LN's average variance at each position over its average over all tokens, (T,)."""
    stats = layer.position
    assert stats is not None
    known = np.isfinite(stats.token_variance)
    total = float(np.sum(stats.count[known] * stats.token_variance[known]))
    average = total / max(1, int(np.sum(stats.count[known])))
    result: Floats = stats.token_variance / (average if average > 0 else math.nan)
    return result


def _weighted(layer: LayerReport, ratio: Floats, low: int, high: int) -> float:
    assert layer.position is not None
    weight, values = layer.position.count[low:high], ratio[low:high]
    known = np.isfinite(values) & (weight > 0)
    return float(np.average(values[known], weights=weight[known])) if known.any() else math.nan


def _furthest(values: Floats) -> int:
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))


def _span(low: int, high: int) -> str:
    return str(low) if high == low + 1 else f"{grouped(low)} to {grouped(high - 1)}"


def _end(numbers: Sequence[int], high: int) -> int:
    return numbers[high] if high < len(numbers) else numbers[-1] + 1


def _standing_out(
    part: PagePart, report: Report, features: Sequence[OutlierFeature]
) -> dict[str, list[Value]]:
    """Return a row for each feature in each layer in which it is an outlier."""
    found = [
        (number, each, *_large(layer, each))
        for number, layer in part.numbered(report.layers)
        for each in features
        if layer.name in each.layers
    ]
    return {
        **part.columns([number for number, _, _, _ in found]),
        "feature": [str(each.feature) for _, each, _, _ in found],
        "share": positive(share for _, _, share, _ in found),
        "largest": positive(largest for _, _, _, largest in found),
    }


def _large(layer: LayerReport, each: OutlierFeature) -> tuple[float, float]:
    """The share of the tokens in which a feature of a layer is large, and its largest size."""
    large = layer.outliers.llm_int8 if layer.outliers else None
    place = np.flatnonzero(large.features == each.feature) if large else np.empty(0)
    if large is None or not len(place):
        return (math.nan, math.nan)
    return (float(large.share[place[0]]), float(large.largest[place[0]]))
