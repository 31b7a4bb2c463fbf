"""Features that are outliers in layer after layer, by the rule of LLM.int8."""

from collections import defaultdict
from collections.abc import Iterable

from normscope.results.inspect import LayerReport, OutlierFeature

# A feature must be an outlier in this share of the layers of its width, and in at least SEVERAL layers.
LAYER_SHARE, SEVERAL = 0.25, 2


def outlier_features(layers: Iterable[LayerReport]) -> tuple[OutlierFeature, ...]:
    """List the features that reach 6 in 6 % of the tokens of 25 % of the layers as wide, most layers first.

    Dettmers et al., 2022, arXiv 2208.07339, section 4.1. At least two layers are required: if there are
    few layers, one of them can be 25 %, but its feature does not recur. Layers whose output is not known
    are not counted.
    """
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    measured: dict[int, int] = defaultdict(int)
    for layer in layers:
        large = layer.outliers.llm_int8 if layer.outliers else None
        if large is not None:
            measured[layer.features] += 1
            for feature in large.features.tolist():
                found[layer.features, feature].append(layer.name)
    features = [
        OutlierFeature(feature, width, tuple(names), len(names) / measured[width])
        for (width, feature), names in found.items()
        if len(names) >= max(SEVERAL, LAYER_SHARE * measured[width])
    ]
    return tuple(sorted(features, key=lambda each: (-len(each.layers), each.width, each.feature)))
