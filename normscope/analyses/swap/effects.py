"""Effects on a model's predictions: sums by text that give means and their intervals.

Intervals are by the bootstrap over texts: Efron 1979, "Bootstrap Methods: Another Look at the
Jackknife", Annals of Statistics 7(1).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from normscope.analyses.swap.predictions import Answer, Question
from normscope.results.swap import Effect, Estimate
from normscope.statistics.bootstrap import COVERAGE
from normscope.statistics.similarity import likeness_kept

# The number of logits per softmax call: a part of this size stays in a processor's cache.
PART = 1 << 20
# The maximum number of texts for similarities: their matrix grows with its square.
_SIMILAR = 2048


# Sums by text over the tokens of N texts, (N,) each, and the texts' sentence vectors (N, D), by name.
Sums = dict[str, Tensor]


def effect_sums(own: Answer, other: Answer, question: Question) -> Sums:
    """Compare two models' answers to one question; `own` is the untouched model's."""
    sums = _hidden_sums(own.hidden, other.hidden, question.valid)
    if own.logits is not None and other.logits is not None:
        sums |= _prediction_sums(own.logits, other.logits, question)
    return sums


def concatenate(parts: Sequence[Sums]) -> Sums:
    """Return the sums of all texts from those of consecutive parts."""
    return {name: torch.cat([sums[name] for sums in parts]) for name in parts[0]}


def _hidden_sums(own: Tensor, other: Tensor, valid: Tensor) -> Sums:
    """Compare hidden states (B, T, D) at the `valid` (B, T) tokens.

    Per text: the number of `tokens`, and the sums over them of the `cosine`, of the `error`
    ||other - own||^2 and of the `power` ||own||^2; `own` and `other` (B, D) are the mean states, the
    sentence vectors.
    """
    text = valid.nonzero()[:, 0]
    a, b = (hidden[valid].double() for hidden in (own, other))  # (V, D)
    tokens = torch.bincount(text, minlength=len(valid)).double()

    def by_text(values: Tensor) -> Tensor:
        return values.new_zeros(len(valid), *values.shape[1:]).index_add_(0, text, values)

    return {
        "tokens": tokens,
        "cosine": by_text(functional.cosine_similarity(a, b, dim=1)),
        "error": by_text((b - a).square().sum(1)),
        "power": by_text(a.square().sum(1)),
        "own": by_text(a) / tokens[:, None],
        "other": by_text(b) / tokens[:, None],
    }


def _prediction_sums(own: Tensor, other: Tensor, question: Question) -> Sums:
    """Compare logits (M, vocabulary) at the predicted tokens.

    Per text: the number of `targets`, and over them the sums of both models' losses -log p(target) in
    nats, of KL(own || other), and of 1 where both models have the same most likely token.
    """
    rows_at_once = max(1, PART // max(1, own.shape[1]))
    pieces = (torch.split(values, rows_at_once) for values in (own, other, question.target))
    parts = [_compare_logits(a, b, target) for a, b, target in zip(*pieces, strict=True)]
    rows = torch.cat(parts) if parts else own.new_zeros(0, 4).double()
    sums = rows.new_zeros(len(question.valid), 4).index_add_(0, question.text, rows)
    targets = torch.bincount(question.text, minlength=len(question.valid)).double()
    return {
        "targets": targets,
        **dict(zip(("own_loss", "loss", "kl", "top1"), sums.unbind(1), strict=True)),
    }


def _compare_logits(own: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """Return for each target, (M, 4): both losses, KL(own || other), and whether the top tokens agree."""
    log_p, log_q = (functional.log_softmax(logits.double(), dim=1) for logits in (own, other))
    p = log_p.exp()
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)
    losses = (-values.gather(1, target[:, None])[:, 0] for values in (log_p, log_q))
    return torch.stack([*losses, kl, (own.argmax(1) == other.argmax(1)).double()], dim=1)


def effect(sums: Sums, weights: Tensor) -> Effect:
    """Return the effect from the sums of N texts; `weights` (R, N) come from `bootstrap.resamples`."""
    one = torch.ones_like(sums["tokens"])
    similarity = functional.cosine_similarity(sums["own"], sums["other"], dim=1)
    loss = loss_of(sums, "loss", weights)
    return Effect(
        hidden_cosine=estimate(_ratio(weights, sums["cosine"], sums["tokens"])),
        relative_l2=estimate(_ratio(weights, sums["error"], sums["power"]).sqrt()),
        sentence_cosine=estimate(_ratio(weights, similarity, one)),
        similarity_correlation=_likeness(sums["own"][:_SIMILAR], sums["other"][:_SIMILAR]),
        loss=loss,
        perplexity=perplexity(loss),
        kl=loss_of(sums, "kl", weights),
        top1_agreement=loss_of(sums, "top1", weights),
    )


def loss_of(sums: Sums, name: str, weights: Tensor) -> Estimate | None:
    """Return the mean of a quantity over the target tokens, None without any."""
    if "targets" not in sums or not float(sums["targets"].sum()):
        return None
    return estimate(_ratio(weights, sums[name], sums["targets"]))


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
