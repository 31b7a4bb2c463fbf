"""Expected noise of BatchNorm's batch means, from inner products of per-text sums, without drawing batches.

Random batches have a closed form. Batches by length are averaged over all windows of consecutive texts in
the order of their lengths: every place where a partition into batches may begin is used.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.statistics.moments import Moments


@dataclass(frozen=True)
class TextSums:
    """Sums over the tokens of each of N texts about one centre c, in G groups with a mean each.

    `products` (G, N, N) are the inner products of the texts' sums of x - c, `count` (G, N) the numbers of
    tokens, `squares` (G, N) the sums of ||x - c||^2. One group is BatchNorm per feature; with a group for
    each position it is BatchNorm per position.
    """

    products: Tensor
    count: Tensor
    squares: Tensor

    @classmethod
    def of(cls, texts: Moments) -> "TextSums":
        """Take the moments (N, D) of texts as one group."""
        shift = texts.mean - texts.pool(0).mean
        sums = texts.count * shift
        squares = (texts.m2 + sums * shift).sum(1)
        return cls((sums @ sums.T)[None], texts.count.T, squares[None])

    @classmethod
    def of_groups(
        cls, x: Tensor, text: Tensor, group: Tensor, texts: int, groups: Iterable[int]
    ) -> "TextSums":
        """Take the tokens x (V, D) of some groups, with the number of their text and their group (V,)."""
        parts = []
        for number in groups:
            rows = (group == number).nonzero().flatten()
            centred = x[rows].double()
            centred -= centred.mean(0)
            sums = torch.zeros(texts, x.shape[1], dtype=torch.float64).index_add_(0, text[rows], centred)
            squares = torch.zeros(texts, dtype=torch.float64).index_add_(
                0, text[rows], centred.square().sum(1)
            )
            count = torch.bincount(text[rows], minlength=texts).double()
            parts.append((sums @ sums.T, count, squares))
        return cls(*(torch.stack(each) for each in zip(*parts, strict=True)))

    def of_texts(self, weights: Tensor) -> "_Centred":
        """Return the sums of the texts whose weight (N,) is 1, about their own mean."""
        count = (self.count @ weights)[:, None]  # (G, 1)
        with_mean = self.products @ weights / count  # (G, N): s_n . mean
        mean_square = (with_mean @ weights)[:, None] / count
        trace = (self.squares @ weights)[:, None] / count - mean_square
        return _Centred(self, weights, count, with_mean, mean_square, trace)


@dataclass(frozen=True)
class _Centred:
    """Some texts of `sums`, about their mean: s_n . s_m becomes (s_n - n_n mean) . (s_m - n_m mean).

    `count` is the number of tokens V, `with_mean` (G, N) the products s_n . mean, `mean_square`
    ||mean||^2, and `trace` the variance summed over features, (G, 1) each.
    """

    sums: TextSums
    weights: Tensor
    count: Tensor
    with_mean: Tensor
    mean_square: Tensor
    trace: Tensor

    def own(self) -> Tensor:
        """Return ||s_n||^2 of each text, (G, N)."""
        count = self.sums.count
        diagonal = self.sums.products.diagonal(dim1=1, dim2=2)
        return diagonal - 2 * count * self.with_mean + count.square() * self.mean_square

    def windows(self, order: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return ||s_B||^2 and the tokens n_B of each window B of `size` consecutive texts, (G, windows)."""
        texts, windows = len(order), len(order) - size + 1
        count, with_mean = self.sums.count[:, order], self.with_mean[:, order]
        # partial[:, n, k] is ||s_n||^2 and twice the sum of s_n . s_m over the k texts m after n.
        partial = torch.zeros(len(count), texts, size, dtype=torch.float64)
        for lag in range(size):
            a, b = slice(0, texts - lag), slice(lag, texts)
            product = self.sums.products[:, order[a], order[b]]
            product -= count[:, a] * with_mean[:, b] + count[:, b] * with_mean[:, a]
            product += count[:, a] * count[:, b] * self.mean_square
            partial[:, a, lag] = product if lag == 0 else 2 * product
        partial = partial.cumsum(2)
        squares = sum(partial[:, k : k + windows, size - 1 - k] for k in range(size))
        assert isinstance(squares, Tensor)
        return squares, count.unfold(1, size, 1).sum(2)


def random_excess(sums: TextSums, weights: Tensor, size: int) -> Tensor:
    """Return the noise of random batches of `size` texts against independent tokens, (R,).

    sqrt(E ||s_B||^2 / E [n_B (V - n_B) / (V - 1) tr var]): the denominator is the expectation when all V
    tokens are permuted over the texts, so it is 1 under that null whatever the lengths. Its square is the
    design effect of clusters (Kish 1965, Survey Sampling). `weights` (R, N) are 0 or 1.
    """
    return torch.stack([_random_excess(sums.of_texts(row), size) for row in weights])


def _random_excess(part: _Centred, size: int) -> Tensor:
    texts, count = part.weights.sum(), part.sums.count[0]
    finite = (texts - size) / (texts - 1)
    noise = size * (part.own()[0] @ part.weights) / texts * finite
    mean, square = part.count[0, 0] / texts, (count.square() @ part.weights) / texts
    tokens = size * mean
    tokens_square = tokens.square() + size * (square - mean.square()) * finite
    null = part.trace[0, 0] * (part.count[0, 0] * tokens - tokens_square) / (part.count[0, 0] - 1)
    return (noise / null).sqrt()


def random_noise(sums: TextSums, weights: Tensor, size: int) -> Tensor:
    """Return the noise of the mean of `size` texts drawn at random with replacement, (R,).

    sqrt(E ||s_B||^2 / tr var) / E n_B, the norm-ratio form of Wang et al. (arXiv 2210.05153).
    """
    return torch.stack([_random_noise(sums.of_texts(row), size) for row in weights])


def _random_noise(part: _Centred, size: int) -> Tensor:
    mean_square = (part.own()[0] @ part.weights) / part.weights.sum()
    tokens = part.count[0, 0] / part.weights.sum()
    return (mean_square / size / part.trace[0, 0]).sqrt() / tokens


def sorted_excess(sums: TextSums, weights: Tensor, size: int, orders: Tensor) -> Tensor:
    """Return the same for batches of consecutive texts, (R,), averaged over `orders` (O, N) of the texts."""
    return torch.stack([_sorted_excess(sums.of_texts(row), size, orders) for row in weights])


def _sorted_excess(part: _Centred, size: int, orders: Tensor) -> Tensor:
    noise = tokens = torch.zeros((), dtype=torch.float64)
    for order in orders:
        squares, count = part.windows(order[part.weights[order] > 0], size)
        noise = noise + squares.sum()
        tokens = tokens + (count * (part.count - count)).sum()
    return (noise / (part.trace[0, 0] * tokens / (part.count[0, 0] - 1))).sqrt()


def grouped_ratio(sums: TextSums, weights: Tensor, size: int, orders: Tensor) -> Tensor:
    """Return the noise of sorted batches over that of random ones in groups of one token a text, (R, 2).

    The noise of a group is the mean of ||mu_B - mu||^2 / tr var over the batches that have a token of it,
    corrected by (V - 1) / (V - n_B) for drawing without replacement; it is averaged over groups. For random
    batches it is E[1 / n_B | n_B > 0], with n_B hypergeometric. The second number is what follows from the
    numbers of tokens n_B alone: 1 / n_B in place of the noise of sorted batches.
    """
    return torch.stack([_grouped_ratio(sums.of_texts(row), size, orders) for row in weights])


def _grouped_ratio(part: _Centred, size: int, orders: Tensor) -> Tensor:
    total, alone, hits = torch.zeros(3, len(part.count), dtype=torch.float64)
    members = part.sums.count.sum(0) > 0
    for order in orders:
        chosen = order[part.weights[order] > 0]
        # Only long texts come to late positions: windows without any of them are passed over.
        first = int(members[chosen].int().argmax())
        squares, count = part.windows(chosen[max(0, first - size + 1) :], size)
        used = (count > 0) & (count < part.count)
        each = squares / count.square() / part.trace * (part.count - 1) / (part.count - count)
        total = total + each.where(used, 0.0).sum(1)
        alone = alone + (1 / count).where(used, 0.0).sum(1)
        hits = hits + used.sum(1)
    texts = int(part.weights.sum())
    random = torch.tensor([inverse_hits(texts, int(count), size) for count in part.count[:, 0]])
    return torch.stack([(sums / hits).mean() / random.double().mean() for sums in (total, alone)]).sqrt()


def inverse_hits(texts: int, members: int, size: int) -> float:
    """Return E[1 / k | k > 0] for the number k of `members` among `size` of `texts`, drawn at random."""
    possible = range(max(1, size - (texts - members)), min(size, members) + 1)
    chances = [math.comb(members, k) * math.comb(texts - members, size - k) for k in possible]
    if not any(chances):
        return math.nan
    return sum(chance / sum(chances) / k for chance, k in zip(chances, possible, strict=True))


def late_reach(lengths: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return the expected share of a batch's texts that reach one of its late positions, (R,).

    A batch is `size` texts at random; its late positions are the last quarter, at least one, of the
    positions of its longest text. NaN with fewer texts than `size`.
    """
    return torch.tensor([_late_reach(lengths[row > 0], size) for row in weights], dtype=torch.float64)


def _late_reach(lengths: Tensor, size: int) -> float:
    """Sum over the sorted texts: each is the longest of a batch whose others are among those before it."""
    if len(lengths) < size:
        return math.nan
    length = lengths.sort().values.double()
    place = torch.arange(len(length), dtype=torch.float64)
    chance = _log_choose(place, size - 1) - _log_choose(torch.tensor(float(len(length))), size)
    start = (0.75 * length).floor()
    before = torch.cat([torch.zeros(1, dtype=torch.float64), length.cumsum(0)])
    short = torch.searchsorted(length, start, right=True)
    last = torch.arange(len(length))
    reached = before[last] - before[short] - (last - short) * start
    share = reached.where(short < last, 0.0) / place.clamp(min=1) / (length - start)
    return float((chance.exp() * (1 + (size - 1) * share)).sum() / size)


def _log_choose(n: Tensor, k: int) -> Tensor:
    n = n.double()
    known = n >= k
    count = n.where(known, float(k))
    log = torch.lgamma(count + 1) - torch.lgamma(count - k + 1) - math.lgamma(k + 1)
    return log.where(known, -math.inf)


def by_length(lengths: Tensor, seed: int, orders: int = 4) -> Tensor:
    """Return orders of texts by their lengths (N,), (orders, N); texts of equal length are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([torch.randperm(len(lengths), generator=generator) for _ in range(orders)])
    return torch.stack([row[lengths[row].argsort(stable=True)] for row in shuffled])
