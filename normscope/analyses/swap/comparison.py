"""Compares the untouched model's answers to others of the same batch, in sums by text.

Sums of one batch join those of the next, so that means and their intervals need no single token.
"""

import torch
from torch import Tensor
from torch.nn import functional

from normscope.analyses.swap.predictions import Answer, Question

# The maximum number of texts for similarities: their matrix grows with its square.
_SIMILAR = 2048

# Sums by text over the tokens of N texts, (N,) each, and the first texts' `vectors` (n, D), by name.
Sums = dict[str, Tensor]


def concatenate(first: Sums, second: Sums) -> Sums:
    """Return the sums of all texts from those of two consecutive parts."""
    sums = {name: torch.cat([first[name], second[name]]) for name in first}
    return {**sums, "vectors": sums["vectors"][:_SIMILAR]}


class Reference:
    """The untouched model's answer to a question, to which `compare` compares others.

    `sums` has, per text, the numbers of `tokens` and of `targets`, over the tokens the sum of the `power`
    ||h||^2 of the last hidden state h, and over the targets the sum of the `loss` -log p(target) in nats;
    `vectors` (n, D) are the means of h, the sentence vectors.
    """

    def __init__(self, answer: Answer, question: Question) -> None:
        self._valid, self._target_text = question.valid, question.text
        self._text = question.valid.nonzero()[:, 0]
        self._hidden = answer.hidden[question.valid].double()  # (tokens, D)
        self._parts: list[_Part] = []
        first = 0
        for logits in answer.logits():
            self._parts.append(_Part(logits, question.target[first : first + len(logits)]))
            first += len(logits)
        self._tokens = self._by_text(torch.ones(len(self._text), dtype=torch.float64), self._text)
        self._vectors = self._by_text(self._hidden, self._text) / self._tokens[:, None]
        (loss,) = self._target_sums([part.loss[:, None] for part in self._parts], 1)
        self.sums: Sums = {
            "tokens": self._tokens,
            "power": self._by_text(self._hidden.square().sum(1), self._text),
            "vectors": self._vectors,
            "targets": torch.bincount(question.text, minlength=len(question.valid)).double(),
            "loss": loss,
        }

    def compare(self, answer: Answer) -> Sums:
        """Compare another answer to this one.

        Returns per text the sums over the tokens of the `cosine` and of the `error` ||other - own||^2, and
        over the targets of the other `loss`, of `kl` KL(own || other), and of `top1`, 1 where both models
        have the same most likely token; the `similarity` of the sentence vectors, and the other `vectors`.
        """
        hidden = answer.hidden[self._valid].double()
        vectors = self._by_text(hidden, self._text) / self._tokens[:, None]
        pairs = zip(self._parts, answer.logits(), strict=True)
        loss, kl, top1 = self._target_sums([part.compare(logits) for part, logits in pairs], 3)
        cosine = functional.cosine_similarity(self._hidden, hidden, dim=1)
        return {
            "cosine": self._by_text(cosine, self._text),
            "error": self._by_text((hidden - self._hidden).square().sum(1), self._text),
            "similarity": functional.cosine_similarity(self._vectors, vectors, dim=1),
            "vectors": vectors,
            "loss": loss,
            "kl": kl,
            "top1": top1,
        }

    def _by_text(self, values: Tensor, text: Tensor) -> Tensor:
        """Sum rows of values by their text."""
        return values.new_zeros(len(self._valid), *values.shape[1:]).index_add_(0, text, values)

    def _target_sums(self, rows: list[Tensor], columns: int) -> tuple[Tensor, ...]:
        """Sum each column of the targets' rows (m, columns) by text."""
        values = torch.cat(rows).cpu() if rows else torch.zeros(0, columns, dtype=torch.float64)
        return self._by_text(values, self._target_text).unbind(1)


class _Part:
    """The untouched model's logits (m, V) of some target tokens, and the `loss` (m,) of each."""

    def __init__(self, logits: Tensor, target: Tensor) -> None:
        self._logits, self._target = logits, target.to(logits.device)[:, None]
        a = _precise(logits)
        self._peak, self._top = a.max(1, keepdim=True)  # (m, 1)
        self._total = (a - self._peak).exp_().sum(1, dtype=torch.float64)  # (m,)
        self.loss = self._total.log() + (self._peak - a.gather(1, self._target))[:, 0].double()

    def compare(self, logits: Tensor) -> Tensor:
        """Return for each target, (m, 3) float64: the other loss, KL, and whether the top tokens agree.

        KL is the difference of the log-sums less the mean of the logits' difference under the own softmax,
        each from the row's peak: a small KL keeps its digits in float32.
        """
        a, b = _precise(self._logits), _precise(logits)
        peak = b.amax(1, keepdim=True)  # (m, 1)
        own, other = a - self._peak, b - peak
        log_sum = other.exp().sum(1, dtype=torch.float64).log()
        mean = torch.linalg.vecdot(own.exp(), other.sub_(own)).double() / self._total
        kl = (log_sum - self._total.log() - mean).clamp(min=0)
        if not bool(kl.isfinite().all()):  # A logit of minus infinity gives 0 times infinity.
            kl = _divergence(a, b)
        loss = log_sum + (peak - b.gather(1, self._target))[:, 0].double()
        top1 = (b.gather(1, self._top) == peak)[:, 0].double()
        return torch.stack([loss, kl, top1], dim=1)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _divergence(own: Tensor, other: Tensor) -> Tensor:
    """Return KL(own || other) of logits (m, V), also where some of them are infinite."""
    log_p, log_q = (functional.log_softmax(logits.double(), dim=1) for logits in (own, other))
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)
