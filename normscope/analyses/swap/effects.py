"""Effects on a model's predictions: means over tokens and texts, and their intervals.

Intervals are by the bootstrap over texts: Efron 1979, "Bootstrap Methods: Another Look at the
Jackknife", Annals of Statistics 7(1).
"""

import math

import torch
from torch import Tensor

from normscope.analyses.swap.comparison import Sums
from normscope.results.swap import Effect, Estimate
from normscope.statistics.bootstrap import COVERAGE
from normscope.statistics.similarity import likeness_kept


def effect(own: Sums, other: Sums, weights: Tensor) -> Effect:
    """Return the effect from the sums of N texts; `weights` (R, N) come from `bootstrap.resamples`."""
    loss = mean_of(other, "loss", own, weights)
    return Effect(
        hidden_cosine=estimate(_ratio(weights, other["cosine"], own["tokens"])),
        relative_l2=estimate(_ratio(weights, other["error"], own["power"]).sqrt()),
        sentence_cosine=estimate(_ratio(weights, other["similarity"], torch.ones_like(own["tokens"]))),
        similarity_correlation=_likeness(own["vectors"], other["vectors"]),
        loss=loss,
        perplexity=perplexity(loss),
        kl=mean_of(other, "kl", own, weights),
        top1_agreement=mean_of(other, "top1", own, weights),
    )


def mean_of(sums: Sums, name: str, own: Sums, weights: Tensor) -> Estimate | None:
    """Return the mean of a quantity over the target tokens, None without any."""
    if not float(own["targets"].sum()):
        return None
    return estimate(_ratio(weights, sums[name], own["targets"]))


def perplexity(loss: Estimate | None) -> float:
    """Return exp(loss), NaN without a loss or if it is too large for a float."""
    return math.exp(loss.mean) if loss is not None and loss.mean < math.log(1e300) else math.nan


def estimate(values: Tensor) -> Estimate:
    """Return the first of (R,) values with its interval; the others are its bootstrap replicates."""
    tail = (1 - COVERAGE) / 2
    finite = values[1:][values[1:].isfinite()]
    if not len(finite) or 2 * len(finite) < len(values) - 1:
        return Estimate(float(values[0]), math.nan, math.nan)
    low, high = torch.quantile(finite, torch.tensor([tail, 1 - tail], dtype=finite.dtype))
    return Estimate(float(values[0]), float(low), float(high))


def _likeness(own: Tensor, other: Tensor) -> float:
    once = torch.ones(1, len(own), dtype=own.dtype)
    return float(likeness_kept(own, other, once)) if len(own) > 2 else math.nan


def _ratio(weights: Tensor, part: Tensor, whole: Tensor) -> Tensor:
    return (weights @ part) / (weights @ whole)
