"""Batch noise: the statistics of batches of texts against those of all texts.

Pure functions of the moments of single texts. The moments of a batch are the exact merge of the moments
of its texts, so no text runs through the model again. Features are processed in parts, so that memory
does not grow with their number.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from normscope.statistics.moments import Moments

# The number of elements in the largest table of a part.
PART = 1 << 19
# The number of steps of a running average that one matrix product computes.
_BLOCK = 64
# Rounding alone gives a constant feature a standard deviation up to this share of its mean.
_CONSTANT = 1e-12


@dataclass
class Noise:
    """The noise of one layer in batches of one size and order; each tensor is (batches,).

    With mu_B, sd_B, var_B of a batch, mu, sd, var of all texts, and D features:
    `tid_mean` ||mu_B - mu||_2 / ||sd||_2 and `tid_variance` ||sd_B - sd||_2 / ||sd||_2, Training
    Inference Discrepancy (Wang et al., NeurIPS 2022, arXiv 2210.05153), norm-ratio form;
    `elementwise_mean`, the average over d of |mu_d - mu_B,d| / sd_B,d, and `elementwise_variance`, of
    |sd_d / sd_B,d - 1|, as in the authors' code, features without spread in the batch left out;
    `distance_mean` ||mu_B - mu||_2 / D and `distance_variance` ||var_B - var||_2 / D (PowerNorm: Shen
    et al., ICML 2020, arXiv 2003.07845, figure 2, but against all texts). A batch of fewer than two
    tokens has no variance: NaN.
    """

    tid_mean: Tensor
    tid_variance: Tensor
    elementwise_mean: Tensor
    elementwise_variance: Tensor
    distance_mean: Tensor
    distance_variance: Tensor
    running: "RunningDiscrepancy | None"


@dataclass
class RunningDiscrepancy:
    """BatchNorm's running statistics over batches in their order, in the norm-ratio form of TID.

    `end_mean` and `end_variance` are the distance of the final running statistics from those of all
    texts, relative to the latter. `tid_mean` and `tid_variance` (batches - 1,) are the distance of each
    batch's statistics from the running statistics before that batch, relative to the running statistics:
    the discrepancy of Wang et al. between training and inference.
    """

    end_mean: float
    end_variance: float
    tid_mean: Tensor
    tid_variance: Tensor


def noise(samples: Moments, plans: Sequence[Tensor], momentum: float | None = None) -> list[Noise]:
    """Return the noise of the batches of each plan; a plan (batches, size) holds sample numbers.

    `samples` (K, D) are the moments of single texts. All K together are the corpus that batches are
    compared with. Running statistics are computed only if a `momentum` is given.
    """
    tokens = [samples.count[:, 0][plan].sum(1) for plan in plans]
    sums = [_Sums.empty(count, momentum) for count in tokens]
    largest = max((plan.numel() for plan in plans), default=1)
    for part in _parts(samples, max(1, PART // max(largest, 1))):
        corpus = part.pool(0)
        for plan, total in zip(plans, sums, strict=True):
            total.add(merged(part, plan[total.known]), corpus)
    return [total.read(samples.mean.shape[1]) for total in sums]


def excess(tid_mean: Tensor, tokens: Tensor, total: float) -> float:
    """Return the noise of batch means as a multiple of what independent tokens would give.

    `tid_mean` and `tokens` (batches,) are of the batches of one size and order, `total` is the number V of
    tokens of all texts. With s_B the sum of x - mu over the n_B tokens of batch B, it is
    sqrt(sum_B ||s_B||^2 / sum_B E||s_B||^2). The expectation is over all permutations of the tokens over
    the texts, n_B (V - n_B) / (V - 1) ||sd||^2, so that under this null the square averages to exactly 1,
    whatever the lengths, order and size. For random batches the square is the design effect of clusters
    (Kish 1965, Survey Sampling). Batches of unknown noise are left out. NaN where a batch holds all tokens.
    """
    known = tid_mean.isfinite()
    tokens = tokens[known].double()
    independent = float((tokens * (total - tokens)).sum())
    if independent <= 0:
        return math.nan
    return math.sqrt(float((tokens * tid_mean[known]).square().sum()) * (total - 1) / independent)


def merged(samples: Moments, texts: Tensor) -> Moments:
    """Merge samples (K, D) into batches (batches, D); `texts` (batches, size) holds the sample numbers."""
    counts = samples.count[:, 0][texts]  # (batches, size)
    count = counts.sum(1, keepdim=True)
    mean = embedding_bag(texts, samples.count * samples.mean, mode="sum") / count.clamp(min=1)
    # (batches * size, D) -> (batches, size, D)
    each = samples.mean.index_select(0, texts.flatten()).view(*texts.shape, samples.mean.shape[1])
    # (batches, 1, size) @ (batches, size, D): the squared distances of the texts' means, weighted.
    between = (counts[:, None] @ each.sub_(mean[:, None]).square_())[:, 0]
    return Moments(count, mean, embedding_bag(texts, samples.m2, mode="sum") + between)


def _parts(samples: Moments, features: int) -> Iterator[Moments]:
    for start in range(0, samples.mean.shape[1], features):
        part = slice(start, start + features)
        yield Moments(samples.count, samples.mean[:, part].contiguous(), samples.m2[:, part].contiguous())


def _variance(cells: Moments) -> Tensor:
    """Return the biased variance; exactly 0 where it is only the rounding error of a constant."""
    variance = cells.variance()
    return variance.where(variance > (_CONSTANT * cells.mean).square(), 0.0)


@dataclass
class _Sums:
    """Sums over features for each batch; the sums of the parts of a layer add up.

    `known` (batches,) bool marks the batches of at least two tokens; the sums have one element for each
    of them. `power` is the variance of the whole corpus, summed over features.
    """

    known: Tensor
    sums: dict[str, Tensor]
    momentum: float | None
    power: float = 0.0
    drift: "_DriftSums | None" = None

    @classmethod
    def empty(cls, tokens: Tensor, momentum: float | None) -> "_Sums":
        known = tokens > 1
        names = ("mean", "sd", "variance", "elements", "elementwise_mean", "elementwise_variance")
        sums = {name: torch.zeros(int(known.sum()), dtype=torch.float64) for name in names}
        return cls(known, sums, momentum)

    def add(self, batches: Moments, corpus: Moments) -> None:
        variance, whole = _variance(batches), _variance(corpus)
        sd, whole_sd = variance.sqrt(), whole.sqrt()
        shift, spread = batches.mean - corpus.mean, sd - whole_sd
        varies = variance > 0
        self.power += float(whole.sum())
        self.sums["mean"] += shift.square().sum(1)
        self.sums["sd"] += spread.square().sum(1)
        self.sums["variance"] += (variance - whole).square().sum(1)
        self.sums["elements"] += varies.sum(1)
        self.sums["elementwise_mean"] += (shift.abs() / sd).where(varies, 0.0).sum(1)
        self.sums["elementwise_variance"] += (spread.abs() / sd).where(varies, 0.0).sum(1)
        if self.momentum is not None and len(shift):
            self.drift = self.drift or _DriftSums.empty(len(shift))
            unbiased = variance * batches.count / (batches.count - 1)
            averages = running(shift, self.momentum), running(unbiased, self.momentum)
            self.drift.add(*averages, shift, sd, whole_sd)

    def read(self, features: int) -> Noise:
        roots = {name: self.sums[name].sqrt() for name in ("mean", "sd", "variance")}
        scale = self.power**0.5 or torch.nan
        return Noise(
            self._spread(roots["mean"] / scale),
            self._spread(roots["sd"] / scale),
            self._spread(self.sums["elementwise_mean"] / self.sums["elements"]),
            self._spread(self.sums["elementwise_variance"] / self.sums["elements"]),
            self._spread(roots["mean"] / features),
            self._spread(roots["variance"] / features),
            None if self.drift is None else self.drift.read(scale),
        )

    def _spread(self, values: Tensor) -> Tensor:
        """Return values for all batches, (batches,): those of the known batches, and NaN for the others."""
        return values.new_full(self.known.shape, torch.nan).masked_scatter(self.known, values)


@dataclass
class _DriftSums:
    """Sums over features: `mean`, `sd`, `power` (batches - 1,), and `end` (2,) after the last batch."""

    mean: Tensor
    sd: Tensor
    power: Tensor
    end: Tensor

    @classmethod
    def empty(cls, batches: int) -> "_DriftSums":
        zero = torch.zeros(batches - 1, dtype=torch.float64)
        return cls(zero, zero.clone(), zero.clone(), zero.new_zeros(2))

    def add(self, mean: Tensor, variance: Tensor, shift: Tensor, sd: Tensor, whole_sd: Tensor) -> None:
        """Add one part of the features: running statistics, and the batch statistics to compare them with.

        The corpus mean is subtracted from all means, so that large means lose no digits.
        """
        running_sd = variance.sqrt()
        self.mean += (shift[1:] - mean[:-1]).square().sum(1)
        self.sd += (sd[1:] - running_sd[:-1]).square().sum(1)
        self.power += variance[:-1].sum(1)
        self.end[0] += mean[-1].square().sum()
        self.end[1] += (running_sd[-1] - whole_sd[0]).square().sum()

    def read(self, scale: float) -> RunningDiscrepancy:
        end_mean, end_variance = (self.end.sqrt() / scale).tolist()
        power = self.power.sqrt()
        return RunningDiscrepancy(end_mean, end_variance, self.mean.sqrt() / power, self.sd.sqrt() / power)


def running(values: Tensor, momentum: float) -> Tensor:
    """Return the running average after each batch of `values` (batches, D), in the same shape.

    running = (1 - momentum) running + momentum batch, as in nn.BatchNorm1d. It starts from the first
    batch, not from PyTorch's 0 and 1. After the few batches of a measurement, those initial values would
    still have the weight (1 - momentum)^batches; in a trained layer they no longer matter.
    """
    kept = 1.0 - momentum
    after, last = torch.empty_like(values), values[:1]
    steps = torch.arange(_BLOCK, dtype=values.dtype)
    # weights[i, j] is the weight of batch j in the average after batch i.
    weights = momentum * (kept ** (steps[:, None] - steps).clamp(min=0)).tril()
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        n = len(block)
        after[start : start + n] = weights[:n, :n] @ block + kept ** (steps[:n, None] + 1) * last
        last = after[start + n - 1, None]
    return after
