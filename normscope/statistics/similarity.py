"""Similarity structure of texts: sentence vectors compared by their pairwise similarities."""

import torch
from torch import Tensor


def likeness_kept(own: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """Return Pearson's correlation (R,) of two similarity matrices, over all pairs of texts.

    The matrices hold the cosines of sentence vectors (N, D); pairs of a text with itself are left out.
    `weights` (R, N) say how often each text counts; a correlation needs at least three texts.
    Kriegeskorte et al. 2008, "Representational similarity analysis".
    """
    pairs = 1 - torch.eye(len(own), dtype=own.dtype)
    a, b = (_deviations(vectors, pairs) for vectors in (own, other))
    n, sum_a, sum_b, aa, bb, ab = (
        _over_pairs(values, weights) for values in (pairs, a, b, a * a, b * b, a * b)
    )
    covariance = ab - sum_a * sum_b / n
    spread = (aa - sum_a.square() / n) * (bb - sum_b.square() / n)
    return (covariance / spread.clamp(min=0).sqrt()).clamp(-1, 1)


def _deviations(vectors: Tensor, pairs: Tensor) -> Tensor:
    """Return the cosines (N, N) minus their mean over pairs, and 0 on the diagonal.

    Without the mean, the squares of nearly equal cosines would differ only in their last digits.
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    similarities = unit @ unit.T
    return (similarities - (similarities * pairs).sum() / pairs.sum()) * pairs


def _over_pairs(values: Tensor, weights: Tensor) -> Tensor:
    return ((weights @ values) * weights).sum(1)
