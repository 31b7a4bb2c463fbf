"""Metrics computed from moments: agreement, affine fit, explained variance, first position, outliers.

Pure functions of moments; sums run over the valid tokens of the corpus, variances are biased.
"""

import math

import torch
from torch import Tensor

from normscope.results.inspect import EffectSize, ExplainedByToken
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.moments import CoMoments, Moments
from normscope.statistics.outliers import LARGE_SHARE, OutlierCounts
from normscope.statistics.views import cells, likeness


def agreement(moments: Accumulator, view: str) -> float:
    """Return the cosine in [-1, 1] between the layer's own y and the z that `view` would give.

    sum(y z) / sqrt(sum(y^2) sum(z^2)) with z = (x - mean) / sqrt(variance + eps), the statistics
    taken over the whole corpus. 1 means: the same output up to one scale. normscope's own.
    """
    alike, output = likeness(moments, view), moments.output
    power = output.m2.sum() + (output.count * output.mean.square()).sum()
    return ratio(alike.product, (power * alike.square).sqrt())


def affine_fit(by_feature: CoMoments, output: Moments) -> float:
    """Return R^2 = 1 - SSR / SST of the best per-feature line y_d ~ a_d x_d + b_d over all features.

    No fixed per-feature scale and shift, and so no BN-style layer, can do better. A feature of x without
    variance predicts nothing. `by_feature` and `output` are (1, D). normscope's own.
    """
    m2 = by_feature.x.m2
    predicted = by_feature.co.square() / m2.where(m2 > 0, math.inf)
    # Where x hardly varies, its moments are rounding errors: limit what a line explains to all of y.
    return ratio(torch.minimum(predicted, output.m2).sum(), output.m2.sum())


def explained(within: Tensor, total: Tensor, count: int, groups: int) -> EffectSize:
    """Return the one-way ANOVA effect sizes of `groups` groups over `count` D-vectors.

    eta2 = 1 - within / total, from the sums of squares around the groups' means and around the
    grand mean. It is biased up when groups are many, which epsilon2 = 1 - (1 - eta2)(count - 1) /
    (count - groups) corrects (Kelley 1935, "An unbiased correlation ratio measure").
    """
    unexplained = ratio(within.sum(), total.sum())
    correction = (count - 1) / (count - groups) if count > groups else math.nan
    return EffectSize(1 - unexplained, 1 - unexplained * correction)


def explained_by_position(moments: Accumulator) -> EffectSize:
    """Return the effect size of position on x; groups are the positions with at least one token."""
    groups = int((moments.table.x.count > 0).sum())
    return explained(moments.table.x.m2, cells(moments, "feature").x.m2, moments.count, groups)


def explained_by_sample(moments: Accumulator) -> EffectSize:
    """Return the effect size of the sample on x; groups are the samples."""
    return explained(moments.within_samples, cells(moments, "feature").x.m2, moments.count, moments.samples)


def explained_by_token(moments: Accumulator) -> ExplainedByToken | None:
    """Return the effect size of the token id on x; None if no token ids are stored.

    Groups are the token ids. Both sums of squares and the grand mean include only the tokens whose id is
    stored; `coverage` is their share of all tokens of the layer.
    """
    by_token = moments.words
    if by_token is None or not by_token.rows:
        return None
    between = Moments(by_token.count, by_token.mean, torch.zeros_like(by_token.count)).pool(0)
    within, count = by_token.within.sum(), int(between.count.max())
    effect = explained(within, within + between.m2.sum(), count, len(by_token.rows))
    return ExplainedByToken(effect.eta2, effect.epsilon2, ratio(count, moments.count))


def first_position(by_position: Moments) -> tuple[float, float]:
    """Return the rms over samples and features of centred tokens: at position 0, and at all later ones.

    The mean square of a token minus its own mean over features is the token's variance. Both numbers are
    therefore computed from `by_position` (T, 2), column 1. Works that remove LayerNorm at inference
    freeze them: Heimersheim 2024, arXiv 2409.13710.
    """
    variance, count = by_position.mean[:, 1], by_position.count[:, 0]
    rest = ratio((variance[1:] * count[1:]).sum(), count[1:].sum())
    return math.sqrt(ratio(variance[:1].sum() * count[:1].sum(), count[:1].sum())), math.sqrt(rest)


def mean_share(moments: Accumulator) -> float:
    """Return the average over tokens of mean^2 / (mean^2 + variance), in [0, 1]; NaN if it is unknown.

    It is the squared cosine between a token and the vector of ones: the share of the token's square that
    LayerNorm removes and RMSNorm does not. A token of zeros has no direction and is left out. Gupta et
    al. 2024, arXiv 2409.12951.
    """
    return float(moments.mean_share.known_mean())


def mean_share_energy(moments: Accumulator) -> float:
    """Return sum mean^2 / sum (mean^2 + variance) over tokens, in [0, 1]; NaN if all are zeros.

    The same share of all squares together: large tokens count more. Both sums follow from the moments of
    the tokens' means and variances.
    """
    mean, variance = moments.token.mean.moments, moments.token.variance.moments
    removed = mean.variance() + mean.mean.square()
    return ratio(removed, removed + variance.mean)


# The largest finite float16.
_FLOAT16_MAX = 65504.0


def headroom(largest: float) -> float:
    """Return how many times the largest |value| fits below float16's maximum, 65504; NaN if it is 0."""
    return _FLOAT16_MAX / largest if largest else math.nan


def sd_ratio(by_feature: Moments) -> float:
    """Return the maximum over the median of the standard deviations of the features of x, 1 or more.

    `by_feature` is (1, D). NaN if the median feature does not vary. normscope's own.
    """
    deviation = by_feature.variance()[0].sqrt()
    return ratio(deviation.max(), deviation.quantile(0.5))


def affine_outliers(values: Tensor) -> Tensor:
    """Return the features d of a weight or a bias (D,) with |values_d - mean| > 3 sd; sd is biased.

    Kovaleva et al., 2021, "BERT Busters", arXiv 2105.06990.
    """
    values = values.double()
    return ((values - values.mean()).abs() > 3 * values.std(correction=0)).nonzero()[:, 0]


def large_features(outliers: OutlierCounts) -> Tensor:
    """Return the features with |output| >= 6 in at least 6 % of the tokens, LLM.int8's threshold."""
    return (outliers.large >= LARGE_SHARE * max(1, outliers.tokens)).nonzero()[:, 0]


def largest(counts: Tensor, maximum: int) -> Tensor:
    """Return the indices of the `maximum` largest `counts` (N,), without zeros, in descending order."""
    order = counts.argsort(descending=True, stable=True)[:maximum]
    return order[counts[order] > 0]


def stored_gap(by_feature: Moments, mean: Tensor, variance: Tensor) -> tuple[float, float]:
    """Return the distance of stored statistics (D,) from those of the corpus, in the norm-ratio form of TID.

    ||mu - mean||_2 / ||sd||_2 and ||sd_corpus - sd||_2 / ||sd||_2 with the stored sd = sqrt(variance).
    This is the domain shift that a BatchNorm in evaluation mode is exposed to. Training Inference
    Discrepancy: Wang et al., NeurIPS 2022, arXiv 2210.05153.
    """
    sd = variance.double().sqrt()
    shift = by_feature.mean[0] - mean
    spread = by_feature.variance()[0].sqrt() - sd
    return ratio(shift.norm(), sd.norm()), ratio(spread.norm(), sd.norm())


def ratio(part: Tensor | float, whole: Tensor | float) -> float:
    """Return part / whole, NaN when the whole is 0."""
    return float(part) / float(whole) if float(whole) else math.nan
