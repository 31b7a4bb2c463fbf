"""Findings on the claims: evidence, intervals and verdicts."""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from normscope.analyses.why.claims import CLAIMS, Claim, sides
from normscope.analyses.why.measures import SIZE, ExpectedNoise, LayerMeasures, median
from normscope.analyses.why.nulls import spaced
from normscope.analyses.why.scale_effects import ScaleEffects
from normscope.results.why import Evidence, Finding, Interval, LayerNumber
from normscope.statistics.expected_noise import late_reach
from normscope.statistics.jackknife import difference, interval, quotient


@dataclass(frozen=True)
class Material:
    """What the claims are tried on.

    `lengths` (N,) and `weights` (R, N) are of the kept texts, `layers` what was measured on them, and
    `shuffled` the same on other texts of their words. `own` are medians over layers of the agreement of the
    layer's own output with other views. `scales`, `shuffled_scales` and `untrained` are effects of a scale
    in the model, on the texts and on shuffled words, and in its untrained copy; `images` is the noise of
    the norms of a vision model. None, or empty: not measured.
    """

    lengths: Tensor
    weights: Tensor
    layers: Sequence[LayerMeasures]
    own: Mapping[str, float] = field(default_factory=dict)
    shuffled: Mapping[str, LayerMeasures] = field(default_factory=dict)
    scales: ScaleEffects | None = None
    shuffled_scales: ScaleEffects | None = None
    untrained: ScaleEffects | None = None
    images: Mapping[str, ExpectedNoise] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    """Why a claim, by its id, cannot be tested here."""
    notes: Sequence[str] = ()
    """Notes on what is missing and decides nothing."""


# So many layers of each model are compared with those of the other.
_PAIRED = 16
# The evidence of a claim, the number that decides first.
Numbers = list[Evidence]


def findings(model: str, material: Material) -> tuple[Finding, ...]:
    """Return every claim with this model's evidence, in the article's order; `model` goes into commands."""
    return tuple(_finding(claim, model, material) for claim in CLAIMS)


def _finding(claim: Claim, model: str, material: Material) -> Finding:
    numbers = _EVIDENCE[claim.id](material)
    first = numbers[0]
    single = [each.number for each in first.layers] or [first.number]
    decided = not math.isnan(first.number.value)
    above, below = sides(single, claim.threshold)
    without = material.without.get(claim.id, "")
    return Finding(
        claim.id,
        claim.says,
        tuple(each for each in numbers if not math.isnan(each.number.value)),
        first.name if decided else None,
        claim.threshold if decided else math.nan,
        claim.rule if decided or not without else f"{claim.rule}; {without}",
        claim.verdict(above, below, len(single) if decided else 0),
        claim.more.format(model=shlex.quote(model)),
        claim.source,
        claim.quantity,
        claim.null,
        above,
        below,
    )


def _over_layers(
    name: str,
    metric: str,
    numbers: Mapping[str, Tensor],
    null: float = math.nan,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    log: bool = False,
) -> Evidence:
    """Return the median over layers of numbers (R,), with the number and interval of each layer."""
    if not numbers:
        return Evidence(name, metric, Interval(math.nan))
    single = {layer: interval(values, minimum, maximum, log=log) for layer, values in numbers.items()}
    whole = interval(median(list(numbers.values())), minimum, maximum, log=log)
    return Evidence(name, metric, whole, null, tuple(LayerNumber(*each) for each in single.items()))


def _late_positions(material: Material) -> Numbers:
    reach = late_reach(material.lengths, material.weights, SIZE)
    return [
        Evidence(
            f"share of {SIZE} random texts that reach a late position",
            "late_reach",
            interval(reach, 1 / SIZE, 1.0),
            1.0,
        ),
        _plain("number of these texts", "late_samples", SIZE * float(reach[0])),
    ]


def _sorting(material: Material) -> Numbers:
    late = {each.name: each.late for each in material.layers if each.late is not None}
    name = f"noise at late positions, {SIZE} texts by length over {SIZE} random ones"
    metric = "late_noise_ratio"
    return [
        _over_layers(name, metric, {layer: both[:, 0] for layer, both in late.items()}, 1.0, 0.0, log=True),
        _over_layers(
            "what the numbers of texts alone would give",
            metric,
            {layer: both[:, 1] for layer, both in late.items()},
            minimum=0.0,
            log=True,
        ),
    ]


def _sorting_features(material: Material) -> Numbers:
    name = f"noise per feature, {SIZE} texts by length over {SIZE} random ones, corrected for tokens"
    return [
        _over_layers(
            words,
            "tid.length_ratio",
            {each.name: each.by_length for each in layers if each.by_length is not None},
            1.0,
            0.0,
            log=True,
        )
        for words, layers in (
            (name, material.layers),
            ("the same with words shuffled across texts", material.shuffled.values()),
        )
    ]


def _positions(material: Material) -> Numbers:
    metric = "explained.position.epsilon2"
    null = material.shuffled
    position = {each.name: each.position for each in material.layers}
    whole = {each.name: each.with_special for each in material.layers}
    words = {
        each.name: difference(each.text, null[each.name].text)
        # Words with less in common than shuffled ones have nothing in common.
        - difference(each.position, null[each.name].position).clamp(min=0)
        for each in material.layers
        if each.name in null
    }
    beyond = {each.name: each.text - each.position for each in material.layers}
    shuffled = {name: null[name].position for name in words}
    return [
        _over_layers(
            "text explains minus position explains, each minus its value for shuffled words",
            "explained_difference",
            words,
            0.0,
        ),
        _over_layers(
            "text explains minus position explains, nothing else subtracted", "explained_difference", beyond
        ),
        _over_layers("position explains, special tokens left out", metric, position, maximum=1.0),
        _over_layers("the same with words shuffled across texts", metric, shuffled, maximum=1.0),
        _over_layers("position explains, with special tokens", metric, whole, maximum=1.0),
        _plain("agreement of LN with BN per position", "agreement.position", _own(material, "position")),
    ]


def _in_common(material: Material) -> Numbers:
    metric = "explained.sequence.epsilon2"
    text = {each.name: each.text for each in material.layers}
    null = {name: each.text for name, each in material.shuffled.items() if name in text}
    words = {name: difference(text[name], values) for name, values in null.items()}
    return [
        _over_layers("text explains, minus the same for shuffled words", "explained_by_words", words, 0.0),
        _over_layers("text explains, special tokens left out", metric, text, maximum=1.0),
        _over_layers("the same with words shuffled across texts", metric, null, maximum=1.0),
        _plain(
            "agreement of LN, per token, with one scale per text",
            "agreement.sequence",
            _own(material, "sequence"),
        ),
    ]


def _meaning(material: Material) -> Numbers:
    own, null, untrained = (
        {} if effects is None else effects.difference()
        for effects in (material.scales, material.shuffled_scales, material.untrained)
    )
    beyond = {name: own[name] - null[name] for name in own if name in null}
    mean = torch.stack([values[0] for values in own.values()]).mean() if own else math.nan
    kept = [
        _over_layers(
            f"similarities kept in the layer by {words}",
            "likeness_kept",
            {each.name: each.likeness[key] for each in material.layers if key in each.likeness},
            minimum=-1.0,
            maximum=1.0,
        )
        for key, words in _LIKENESS.items()
    ]
    return [
        _over_layers(
            "similarities kept by the text's scale, minus by BN's scale, minus the same for shuffled words",
            "scale_difference",
            beyond,
            0.0,
        ),
        _over_layers("the same, shuffled words not subtracted", "likeness_difference", own),
        _plain("its mean over layers", "likeness_difference", float(mean)),
        _over_layers("the same for shuffled words alone", "likeness_difference", null),
        _over_layers("the same in an untrained copy", "likeness_difference", untrained),
        *kept,
    ]


_LIKENESS = {
    "feature scale": "BN's scale alone",
    "feature centre": "BN's centre alone",
    "feature": "both of BN",
    "sequence": "the text's scale and centre",
}


def _images(material: Material) -> Numbers:
    name = f"noise of {SIZE} texts per feature over {SIZE} images per channel"
    return _beside(material, name, "samples", f"noise of the mean of {SIZE} samples", "tid.mean")


def _elements(material: Material) -> Numbers:
    name = "noise per feature over that per channel, at as many tokens as pixels"
    return _beside(material, name, "excess", "noise against independent elements", "excess_noise")


def _beside(material: Material, name: str, part: str, words: str, own: str) -> Numbers:
    """Compare a `part` of the noise of layers on text and on images, every layer with every one."""
    noise = {each.name: each.noise for each in material.layers if each.noise is not None}
    text, images = (
        {layer: getattr(values, part) for layer, values in side.items()} for side in (noise, material.images)
    )
    # Where there are many layers, pairs of them are many more: evenly spaced ones are enough.
    pairs = product(spaced(list(text), _PAIRED), spaced(list(images), _PAIRED))
    ratios = {f"{layer} / {other}": quotient(text[layer], images[other]) for layer, other in pairs}
    return [
        _over_layers(name, "noise_ratio", ratios, 1.0, 0.0, log=True),
        _over_layers(f"{words}, on text", own, text, minimum=0.0, log=True),
        _over_layers(f"{words}, on images", own, images, minimum=0.0, log=True),
    ]


def _plain(name: str, metric: str, value: float) -> Evidence:
    return Evidence(name, metric, Interval(value))


def _own(material: Material, view: str) -> float:
    return material.own.get(view, math.nan)


_EVIDENCE: dict[str, Callable[[Material], Numbers]] = {
    "1a": _late_positions,
    "1b": _sorting,
    "1c": _sorting_features,
    "2": _positions,
    "3": _in_common,
    "4": _meaning,
    "5": _images,
    "6": _elements,
}
