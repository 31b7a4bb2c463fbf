"""Tables of outliers: features that recur across layers, and the outliers of each layer."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from normscope.escaping import grouped
from normscope.render.grid import Column, Grid
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.results.common import Counts
from normscope.results.glossary.lookup import note
from normscope.results.inspect import Extreme, Extremes, LayerReport, OutlierFeature, Outliers, Report

_MAX_LISTED = 3  # a cell lists this many features and only counts the others


def recurring_outliers(report: Report, top: int) -> Grid | None:
    """Return the table of the `top` features that are outliers in the most layers, None without any."""
    features = report.outlier_features
    shown = features[:top]
    if not shown:
        return None
    layers_of_each = [
        [layer for layer in report.layers.values() if layer.name in feature.layers and layer.outliers]
        for feature in shown
    ]
    rows = list(zip(shown, layers_of_each, strict=True))
    widths = {feature.width for feature in features}

    def maxima(field: str) -> list[float]:
        return [outlier_maximum(feature, layers, field) for feature, layers in rows]

    def counts(name: str) -> list[str]:
        return align(_affine_count(feature, layers, name) for feature, layers in rows)

    columns = [
        Column("feature", "", align(str(feature.feature) for feature in shown)),
        *([Column("of", "", align(grouped(feature.width) for feature in shown))] if len(widths) > 1 else []),
        Column("layers", "", align(share_of_layers(feature) for feature in shown)),
        Column("tokens", "at most", align(map(percent, maxima("share")))),
        Column("output", "largest", aligned(maxima("largest"))),
        Column("sd ratio", "largest", aligned(_sd_ratio(f.feature, layers) for f, layers in rows)),
        Column("weight", "stands out", counts("weight"), rank=3),
        Column("bias", "stands out", counts("bias"), rank=4),
    ]
    more = [f"{len(shown)} of {len(features)} features, those in most layers first."]
    return Grid("Outlier features", columns, (more if len(shown) < len(features) else []) + _NOTES)


_NOTES = [
    "An output of 6 or more in size, in 6% of the tokens and a quarter of the layers.",
    "tokens: the largest share of tokens in one of these layers.",
    "sd ratio: the sd of the layer's input there over that of the median feature.",
    "stands out: in how many of these layers it is over 3 sd from the others.",
]


def outliers_by_layer(report: Report) -> Grid | None:
    """Return the table of every layer's outliers, for `--verbose`; None where none were measured."""
    pairs = [(layer, layer.outliers) for layer in report.layers.values() if layer.outliers]
    if not pairs:
        return None
    outliers = [layer_outliers for _, layer_outliers in pairs]
    large = [_listed(each.llm_int8.features if each.llm_int8 else None) for each in outliers]

    def counts(name: str) -> list[str]:
        return align(_count(_affine_outliers(o, name)) for o in outliers)

    columns = [
        Column("layer", "", [layer.name for layer, _ in pairs], names=True),
        Column("6 or more", "features", large),
        Column("sd ratio", "", aligned(o.sd_ratio for o in outliers)),
        *_extremes([layer for layer, _ in pairs]),
        Column("massive", "elements", align(grouped(o.massive.count) for o in outliers), rank=1),
        *(_massive(outliers) if any(o.massive.count for o in outliers) else []),
        Column("weight", "stands out", counts("weight"), rank=2),
        Column("bias", "stands out", counts("bias"), rank=2),
    ]
    return Grid("Outliers in each layer", columns, _BY_LAYER)


_BY_LAYER = [
    note("outliers.llm_int8.features", "6 or more"),
    note("outliers.sd_ratio", "sd ratio"),
    "headroom: how many times the largest value fits below float16's maximum, 65504.",
    note("outliers.massive.count", "massive"),
    "stands out: how many features have a weight or bias over 3 sd from the others.",
]


def _extremes(layers: Sequence[LayerReport]) -> list[Column]:
    """Return the columns of the largest values; none in reports of earlier versions."""
    if not any(layer.extremes for layer in layers):
        return []
    inputs, outputs, rooms = zip(*map(extreme_sizes, layers), strict=True)
    return [
        Column("input", "largest", aligned(inputs)),
        Column("output", "largest", aligned(outputs)),
        Column("headroom", "float16", aligned(rooms), rank=2),
    ]


def extreme_sizes(layer: LayerReport) -> tuple[float, float, float]:
    """Return the largest |input| and |output| of a layer and its headroom, NaN where unknown."""
    extremes = layer.extremes
    if extremes is None:
        return math.nan, math.nan, math.nan
    output = math.nan if extremes.output is None else extremes.output.value
    return extremes.input.value, output, extremes.headroom


def _massive(outliers: Sequence[Outliers]) -> list[Column]:
    return [
        Column("massive", "largest", aligned(o.massive.largest for o in outliers), rank=3),
        Column("massive", "features", [_listed(o.massive.features) for o in outliers], rank=4),
        Column("massive", "positions", [_listed(o.massive.positions) for o in outliers], rank=5),
    ]


def notes_on(layer: LayerReport) -> list[str]:
    """Return a line for each kind of outlier that one layer has."""
    outliers = layer.outliers
    if outliers is None:
        return []
    notes, large, massive = [], outliers.llm_int8, outliers.massive
    if large is not None and len(large.features):
        order = np.argsort(-large.share, kind="stable")[:_MAX_LISTED].tolist()
        named = [f"{large.features[i]} ({percent(float(large.share[i]))})" for i in order]
        notes.append(f"Output 6 or more, in the most tokens: {', '.join(named)}{_rest(large.features)}.")
    if massive.count:
        places = [f"features {_listed(massive.features)}"]
        places += [f"positions {_listed(massive.positions)}"] if len(massive.positions) else []
        largest = f"largest {short(massive.largest)}"
        notes.append(f"Massive elements: {grouped(massive.count)}, {largest}, {', '.join(places)}.")
    return [*notes, *_extremes_note(layer.extremes)]


def _extremes_note(extremes: Extremes | None) -> list[str]:
    if extremes is None:
        return []
    named = [("input", extremes.input)] + ([("output", extremes.output)] if extremes.output else [])
    parts = [f"{name} {short(one.value)} ({_place(one)})" for name, one in named]
    return [f"Largest |value|: {', '.join(parts)}; float16 has room for {short(extremes.headroom)} times it."]


def _place(extreme: Extreme) -> str:
    places = {"feature": extreme.feature, "position": extreme.position, "token id": extreme.token}
    return ", ".join(f"{name} {number}" for name, number in places.items() if number is not None)


def share_of_layers(feature: OutlierFeature) -> str:
    """Write in how many layers a feature is an outlier, of those of its width."""
    layers = len(feature.layers)
    return f"{layers} of {round(layers / feature.share)}" if feature.share else UNKNOWN


def outlier_maximum(feature: OutlierFeature, layers: Iterable[LayerReport], field: str) -> float:
    """Return the maximum of a feature's `share` or `largest` over some layers, NaN where it is in none."""
    outliers = [layer.outliers.llm_int8 for layer in layers if layer.outliers and layer.outliers.llm_int8]
    matches = [getattr(large, field)[large.features == feature.feature].tolist() for large in outliers]
    return max(itertools.chain.from_iterable(matches), default=math.nan)


def _sd_ratio(feature: int, layers: Iterable[LayerReport]) -> float:
    ratios = []
    for layer in layers:
        variance = layer.feature.variance if layer.feature else np.empty(0)
        median = float(np.median(np.sqrt(variance))) if feature < len(variance) else 0.0
        ratios += [float(np.sqrt(variance[feature])) / median] if median > 0 else []
    return max(ratios, default=math.nan)


def _affine_count(feature: OutlierFeature, layers: Sequence[LayerReport], name: str) -> str:
    vectors = [_affine_outliers(layer.outliers, name) for layer in layers if layer.outliers]
    counts = [feature.feature in vector for vector in vectors if vector is not None]
    return str(sum(counts)) if counts else UNKNOWN


def _affine_outliers(outliers: Outliers, name: str) -> Counts | None:
    vector: Counts | None = getattr(outliers.affine_outliers, name, None)
    return vector


def _count(features: Counts | None) -> str:
    return UNKNOWN if features is None else grouped(len(features))


def _listed(features: Counts | None) -> str:
    """Write the first few numbers, and how many more there are."""
    if features is None:
        return UNKNOWN
    return ", ".join(map(str, features[:_MAX_LISTED].tolist())) + _rest(features)


def _rest(features: Counts) -> str:
    return f" +{len(features) - _MAX_LISTED}" if len(features) > _MAX_LISTED else ""
