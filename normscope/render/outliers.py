"""Tables of outliers: features that recur across layers, and the outliers of each layer."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from normscope.escaping import grouped
from normscope.render.grid import Column, Grid
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.results.common import Counts
from normscope.results.glossary.lookup import note
from normscope.results.inspect import LayerReport, OutlierFeature, Outliers, Report

FEW = 3  # a cell lists so many features before it only counts them


def recurring(report: Report, top: int) -> Grid | None:
    """Return the table of the `top` features that are outliers in most layers, None without any."""
    features = report.outlier_features
    shown = features[:top]
    if not shown:
        return None
    seen = [
        [layer for layer in report.layers.values() if layer.name in each.layers and layer.outliers]
        for each in shown
    ]
    rows = list(zip(shown, seen, strict=True))
    widths = {each.width for each in features}
    columns = [
        Column("feature", "", align(str(each.feature) for each in shown)),
        *([Column("of", "", align(grouped(each.width) for each in shown))] if len(widths) > 1 else []),
        Column("layers", "", align(_of(each) for each in shown)),
        Column("tokens", "at most", align(percent(_largest(each, layers, "share")) for each, layers in rows)),
        Column("output", "largest", aligned(_largest(each, layers, "largest") for each, layers in rows)),
        Column("sd ratio", "largest", aligned(_sd_ratio(each.feature, layers) for each, layers in rows)),
        Column(
            "weight", "stands out", align(_affine(each, layers, "weight") for each, layers in rows), rank=3
        ),
        Column("bias", "stands out", align(_affine(each, layers, "bias") for each, layers in rows), rank=4),
    ]
    more = [f"{len(shown)} of {len(features)} features, those in most layers first."]
    return Grid("Outlier features", columns, (more if len(shown) < len(features) else []) + _NOTES)


_NOTES = [
    "6 or more in size in the output, in at least 6% of the tokens, in a quarter of the layers or more.",
    "tokens: the share of them, in the layer with most.",
    "sd ratio: the sd of the layer's input there over that of the median feature.",
    "stands out: in how many of these layers over 3 sd from the layer's others.",
]


def by_layer(report: Report) -> Grid | None:
    """Return the table of every layer's outliers, for `--verbose`; None where none were measured."""
    pairs = [(layer, layer.outliers) for layer in report.layers.values() if layer.outliers]
    if not pairs:
        return None
    found = [each for _, each in pairs]
    columns = [
        Column("layer", "", [layer.name for layer, _ in pairs], names=True),
        Column("6 or more", "features", [_large(each) for each in found]),
        Column("sd ratio", "", aligned(each.sd_ratio for each in found)),
        Column("massive", "elements", align(grouped(each.massive.count) for each in found), rank=1),
        *(_massive(found) if any(each.massive.count for each in found) else []),
        Column("weight", "stands out", align(_counted(_of_affine(each, "weight")) for each in found), rank=2),
        Column("bias", "stands out", align(_counted(_of_affine(each, "bias")) for each in found), rank=2),
    ]
    return Grid("Outliers in each layer", columns, _BY_LAYER)


_BY_LAYER = [
    note("outliers.llm_int8.features", "6 or more"),
    note("outliers.sd_ratio", "sd ratio"),
    note("outliers.massive.count", "massive"),
    "stands out: how many features have a weight or bias over 3 sd from the others.",
]


def _massive(found: Sequence[Outliers]) -> list[Column]:
    return [
        Column("massive", "largest", aligned(each.massive.largest for each in found), rank=3),
        Column("massive", "features", [_listed(each.massive.features) for each in found], rank=4),
        Column("massive", "positions", [_listed(each.massive.positions) for each in found], rank=5),
    ]


def notes_on(layer: LayerReport) -> list[str]:
    """Say what stands out of one layer, a line for each kind of outlier that it has."""
    outliers = layer.outliers
    if outliers is None:
        return []
    notes, large, massive = [], outliers.llm_int8, outliers.massive
    if large is not None and len(large.features):
        order = np.argsort(-large.share, kind="stable")[:FEW].tolist()
        named = [f"{large.features[i]} ({percent(float(large.share[i]))})" for i in order]
        notes.append(f"Output 6 or more, in the most tokens: {', '.join(named)}{_rest(large.features)}.")
    if massive.count:
        places = [f"features {_listed(massive.features)}"]
        places += [f"positions {_listed(massive.positions)}"] if len(massive.positions) else []
        largest = f"largest {short(massive.largest)}"
        notes.append(f"Massive elements: {grouped(massive.count)}, {largest}, {', '.join(places)}.")
    return notes


def _of(each: OutlierFeature) -> str:
    return f"{len(each.layers)} of {round(len(each.layers) / each.share)}" if each.share else UNKNOWN


def _largest(each: OutlierFeature, layers: Iterable[LayerReport], of: str) -> float:
    parts = [layer.outliers.llm_int8 for layer in layers if layer.outliers and layer.outliers.llm_int8]
    values = [getattr(part, of)[part.features == each.feature] for part in parts]
    return max((float(value) for found in values for value in found), default=math.nan)


def _sd_ratio(feature: int, layers: Iterable[LayerReport]) -> float:
    ratios = []
    for layer in layers:
        variance = layer.feature.variance if layer.feature else np.empty(0)
        median = float(np.median(np.sqrt(variance))) if feature < len(variance) else 0.0
        ratios += [float(np.sqrt(variance[feature])) / median] if median > 0 else []
    return max(ratios, default=math.nan)


def _affine(each: OutlierFeature, layers: Sequence[LayerReport], name: str) -> str:
    vectors = [_of_affine(layer.outliers, name) for layer in layers if layer.outliers]
    known = [vector for vector in vectors if vector is not None]
    return str(sum(each.feature in vector for vector in known)) if known else UNKNOWN


def _of_affine(outliers: Outliers, name: str) -> Counts | None:
    vector: Counts | None = getattr(outliers.affine_outliers, name, None)
    return vector


def _large(outliers: Outliers) -> str:
    return _listed(outliers.llm_int8.features if outliers.llm_int8 else None)


def _counted(features: Counts | None) -> str:
    return UNKNOWN if features is None else grouped(len(features))


def _listed(features: Counts | None) -> str:
    """Write a few numbers, and how many more there are."""
    if features is None:
        return UNKNOWN
    return ", ".join(map(str, features[:FEW].tolist())) + _rest(features)


def _rest(features: Counts) -> str:
    return f" +{len(features) - FEW}" if len(features) > FEW else ""
