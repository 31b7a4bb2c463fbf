"""Findings on the claims: medians over layers, intervals and verdicts."""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from normscope.analyses.why import evidence
from normscope.analyses.why.claims import CLAIMS, Claim
from normscope.analyses.why.evidence import LayerRows
from normscope.data.batch_sampling import Plan
from normscope.results.why import Evidence, Finding, Interval
from normscope.statistics.batch_composition import Flags, filling
from normscope.statistics.batch_noise import Noise, noise
from normscope.statistics.bootstrap import interval, resamples
from normscope.statistics.moments import Moments
from normscope.statistics.similarity import likeness_kept

# Texts of a batch wherever a claim is about batches.
SIZE = 8
# Similarity matrices are of at most so many texts.
_MOST_PAIRED = 512


@dataclass
class Material:
    """What the claims are tried on.

    `layers` hold the tokens of N texts, `counted` (N) which tokens of each text count; `batches` are
    plans of SIZE texts, "random" and "length", without any where there are too few texts. `own` are
    medians over layers of what a report has: agreement of the layer's own output with other views.
    `images` are the moments of single images (N, C) at each layer of a vision model, by its name.
    """

    layers: Sequence[LayerRows]
    counted: Sequence[Flags]
    batches: dict[str, Plan]
    own: dict[str, float]
    seed: int
    images: dict[str, Moments] | None = None

    @cached_property
    def weights(self) -> Tensor:
        """How often each text counts, (1 + draws, N): once, and as it was drawn in each replicate."""
        return resamples(len(self.counted), self.seed)

    @cached_property
    def ordinary(self) -> list[LayerRows]:
        """The layers without special tokens."""
        return [rows.ordinary() for rows in self.layers]

    @cached_property
    def noise(self) -> list[dict[str, Noise]]:
        """The noise of each layer's batches, by order."""
        names, plans = list(self.batches), [torch.from_numpy(plan.texts) for plan in self.batches.values()]
        return [dict(zip(names, noise(rows.by_text(), plans), strict=True)) for rows in self.layers]

    def over_batches(self, of: Callable[[dict[str, Noise], dict[str, Tensor]], Tensor]) -> Interval:
        """Return the median over layers of a number of batches, which are drawn anew in each replicate.

        `of` is given a layer's noise and, by order, how often each batch counts (1 + draws, batches).
        """
        if not self.batches:
            return Interval(math.nan)
        drawn = {name: resamples(len(plan.texts), self.seed) for name, plan in self.batches.items()}
        return _median([of(layer, drawn) for layer in self.noise], least=0.0)


def _median(numbers: Sequence[Tensor], least: float = -math.inf, most: float = math.inf) -> Interval:
    """Return the median over layers of numbers (1 + draws,) in a range, the first of them the value."""
    if not numbers:
        return Interval(math.nan)
    middle = torch.stack(list(numbers)).nanquantile(0.5, dim=0)
    return interval(float(middle[0]), middle[1:], least, most)


def findings(model: str, material: Material) -> tuple[Finding, ...]:
    """Return every claim with this model's evidence, in the article's order; `model` goes into commands."""
    return tuple(_finding(claim, model, *_EVIDENCE[claim.id](material)) for claim in CLAIMS)


def _finding(claim: Claim, model: str, found: list[Evidence], decided_by: str | None) -> Finding:
    number = next((each.number for each in found if each.name == decided_by), Interval(math.nan))
    more = claim.more.format(model=shlex.quote(model))
    return Finding(
        claim.id,
        claim.says,
        tuple(found),
        decided_by,
        claim.threshold,
        claim.rule,
        claim.verdict(number),
        more,
    )


Numbers = tuple[list[Evidence], str | None]


def _late_positions(material: Material) -> Numbers:
    lengths = torch.tensor([len(flags) for flags in material.counted])
    name = "share of the positions that fewer than half of the texts reach"
    late = evidence.late_share(lengths, material.weights)
    found = [Evidence(name, "late_share", interval(float(late[0]), late[1:], 0.0, 1.0))]
    if material.batches:
        held = filling(material.counted, material.batches["random"].texts)
        words = f"texts at the late positions of {SIZE} random ones (median)"
        found.append(_plain(words, "late_samples", held.late_samples))
    return found, name


def _sorting(material: Material) -> Numbers:
    name = f"noise of the mean in batches of {SIZE} by length, over that in random ones"

    def ratio(layer: dict[str, Noise], drawn: dict[str, Tensor]) -> Tensor:
        return _average(layer["length"].tid_mean, drawn["length"]) / _average(
            layer["random"].tid_mean, drawn["random"]
        )

    found = [Evidence(name, "tid.length_ratio", material.over_batches(ratio))]
    for order, plan in material.batches.items():
        held = filling(material.counted, plan.texts)
        words = "by length" if order == "length" else order
        found.append(_plain(f"padding of {SIZE} texts {words}", "padding_share", held.padding_share))
    return found, name


def _positions(material: Material) -> Numbers:
    name = "position explains, special tokens left out (epsilon squared)"
    without, whole = (
        _median([evidence.explained_by_position(rows, material.weights) for rows in layers], most=1.0)
        for layers in (material.ordinary, material.layers)
    )
    metric = "explained.position.epsilon2"
    return [
        Evidence(name, metric, without),
        Evidence("position explains, with special tokens", metric, whole),
        _plain("agreement of LN with BN per position", "agreement.position", material.own["position"]),
    ], name


def _in_common(material: Material) -> Numbers:
    name = "text explains, less what position explains"
    by_text = [evidence.explained_by_text(rows, material.weights) for rows in material.ordinary]
    by_position = [evidence.explained_by_position(rows, material.weights) for rows in material.ordinary]
    differences = [a - b for a, b in zip(by_text, by_position, strict=True)]
    sequence, feature = material.own["sequence"], material.own["feature"]
    return [
        Evidence(name, "explained_difference", _median(differences)),
        Evidence(
            "text explains, special tokens left out",
            "explained.sequence.epsilon2",
            _median(by_text, most=1.0),
        ),
        _plain("agreement of LN, per token, with one scale per text", "agreement.sequence", sequence),
        _plain("agreement of LN with BN per feature", "agreement.feature", feature),
    ], name


def _meaning(material: Material) -> Numbers:
    kept: dict[str, list[Tensor]] = {"sequence": [], "feature": []}
    for rows in material.ordinary:
        vectors = evidence.sentence_vectors(rows)
        texts = min(_MOST_PAIRED, len(vectors["own"]))
        drawn = resamples(texts, material.seed)
        for view, found in kept.items():
            found.append(likeness_kept(vectors["own"][:texts], vectors[view][:texts], drawn))
    name = "correlation kept by scaling within the text, less that kept by BN"
    differences = [a - b for a, b in zip(kept["sequence"], kept["feature"], strict=True)]
    by_text, by_feature = (_median(found, -1.0, 1.0) for found in kept.values())
    likenesses = "correlation of texts' likenesses, scaled"
    return [
        Evidence(name, "likeness_difference", _median(differences, -2.0, 2.0)),
        Evidence(f"{likenesses} within the text", "likeness_kept", by_text),
        Evidence(f"{likenesses} by BN", "likeness_kept", by_feature),
    ], name


def _images(material: Material) -> Numbers:
    return [_noise_of_means(material)], None


def _fluctuation(material: Material) -> Numbers:
    name = "noise of the mean, in units of as many independent tokens'"
    texts = len(material.counted)

    def excess(layer: dict[str, Noise], drawn: dict[str, Tensor]) -> Tensor:
        tokens = torch.from_numpy(filling(material.counted, material.batches["random"].texts).tokens)
        # Drawn without replacement from the texts that they are compared with.
        share = math.sqrt((texts - SIZE) / (texts - 1))
        return _average(layer["random"].tid_mean * tokens.sqrt(), drawn["random"]) / share

    return [
        Evidence(name, "excess_noise", material.over_batches(excess)),
        _noise_of_means(material),
    ], name


def _noise_of_means(material: Material) -> Evidence:
    number = material.over_batches(lambda layer, drawn: _average(layer["random"].tid_mean, drawn["random"]))
    return Evidence(f"noise of the mean in {SIZE} random texts", "tid.mean", number)


def _average(values: Tensor, weight: Tensor) -> Tensor:
    return weight @ values / weight.sum(1)


def _plain(name: str, metric: str, value: float) -> Evidence:
    return Evidence(name, metric, Interval(value))


_EVIDENCE: dict[str, Callable[[Material], Numbers]] = {
    "1a": _late_positions,
    "1b": _sorting,
    "2": _positions,
    "3": _in_common,
    "4": _meaning,
    "5": _images,
    "6": _fluctuation,
}
