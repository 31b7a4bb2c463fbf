"""Numbers of one layer that the claims rest on, each with its replicates, once its tokens are at hand."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from normscope.analyses.why import evidence
from normscope.analyses.why.evidence import LayerRows
from normscope.statistics import expected_noise
from normscope.statistics.expected_noise import CentredSums, SortedPairs, TextSums
from normscope.statistics.jackknife import groups_of, replicates
from normscope.statistics.moments import Moments

# Texts of a batch wherever a claim is about batches.
SIZE = 8
# From fewer texts, batches by length have too few neighbours, and too many at the ends of the order.
_LEAST_SORTED = 64


@dataclass(frozen=True)
class Sampling:
    """The N texts of a sample: their `lengths` in tokens, their jackknife `group`, and `orders` by length.

    `weights` (R, N) are those of the replicates; `orders` (O, N) shuffle texts of equal length. `pairs` are
    in one batch by length; None where there are too few texts for such batches.
    """

    lengths: Tensor
    group: Tensor
    weights: Tensor
    orders: Tensor
    pairs: SortedPairs | None

    @classmethod
    def of(cls, lengths: Tensor, seed: int) -> "Sampling":
        """Sample texts of these lengths."""
        group = groups_of(len(lengths))
        weights, orders = replicates(group), expected_noise.by_length(lengths, seed)
        pairs = SortedPairs.of(orders, weights, SIZE) if len(lengths) >= _LEAST_SORTED else None
        return cls(lengths, group, weights, orders, pairs)


@dataclass(frozen=True)
class ExpectedNoise:
    """The noise of batch means of one layer, (R,) each.

    `samples` is that of SIZE random samples, `excess` the same against independent elements, and so the
    noise of one pooled element.
    """

    samples: Tensor
    excess: Tensor

    @classmethod
    def of(cls, sums: CentredSums) -> "ExpectedNoise":
        """Take the noise from sums over samples."""
        return cls(expected_noise.random_noise(sums, SIZE), expected_noise.random_excess(sums, SIZE))

    @classmethod
    def of_samples(cls, samples: Moments, weights: Tensor) -> "ExpectedNoise":
        """Take the noise from the moments (N, D) of samples."""
        return cls.of(TextSums.of(samples).centred(weights))


@dataclass(frozen=True)
class LayerMeasures:
    """One layer's numbers (R,), special tokens left out.

    `position` and `text` are the shares of the variance that these explain, `with_special` is that of the
    position with special tokens. `by_length` is the noise per feature of batches by length over random
    ones; `late` (R, 2) the same per position, at late positions, None where there are none, and what
    follows from the numbers of texts there alone. `likeness` says how well normalizations keep the texts'
    similarities, see `evidence.text_vectors`.
    """

    name: str
    position: Tensor
    with_special: Tensor
    text: Tensor
    noise: ExpectedNoise | None = None
    by_length: Tensor | None = None
    late: Tensor | None = None
    likeness: dict[str, Tensor] = field(default_factory=dict)


def measured(rows: LayerRows, sampling: Sampling, *, null: bool = False) -> LayerMeasures:
    """Measure all numbers of a layer; those about batches only where there are texts for two batches.

    Of a `null`, those are measured that a claim subtracts or shows.
    """
    by_text, weights = rows.by_text(), sampling.weights
    position, with_special = evidence.explained_by_position(rows, sampling.group)
    noise = by_length = late = None
    # Each replicate has to hold two batches.
    if int(weights.sum(1).min()) >= 2 * SIZE:
        sums = TextSums.of(by_text).centred(weights)
        noise = ExpectedNoise.of(sums)
        if sampling.pairs is not None:
            by_length = expected_noise.sorted_excess(sums, sampling.pairs) / noise.excess
            late = None if null else _late(rows, sampling)
    return LayerMeasures(
        rows.name,
        position,
        with_special,
        evidence.explained_by_text(by_text, weights),
        noise,
        by_length,
        late,
        {} if null else evidence.likenesses_kept(rows, by_text, weights),
    )


def _late(rows: LayerRows, sampling: Sampling) -> Tensor | None:
    texts = len(sampling.lengths)
    positions = evidence.late_positions(rows, texts, SIZE)
    if not positions:
        return None
    sums = evidence.noise_at(rows, positions, texts)
    if bool((sums.count > 1).any()):  # A layer that is called several times, or head by head.
        return None
    half = sampling.orders[: len(sampling.orders) // 2]
    return expected_noise.grouped_ratio(sums.centred(sampling.weights), SIZE, half)


def median(numbers: list[Tensor]) -> Tensor:
    """Return the median over layers of numbers (R,), (R,)."""
    return torch.stack(numbers).nanquantile(0.5, dim=0)
