"""Expected noise of BatchNorm's batch means, from inner products of per-text sums, without drawing batches.

Random batches have a closed form. Batches by length are averaged over all windows of consecutive texts in
the order of their lengths: every place where a partition into batches may begin is used. All replicates
are computed at once, from the same products.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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

    def centred(self, weights: Tensor) -> "CentredSums":
        """Return the sums of the texts of R replicates about their mean; `weights` (R, N) are 0 or 1."""
        count = (self.count @ weights.T)[..., None]
        with_mean = weights @ self.products / count
        mean_square = (with_mean * weights).sum(2, keepdim=True) / count
        trace = (self.squares @ weights.T)[..., None] / count - mean_square
        return CentredSums(self, weights, count, with_mean, mean_square, trace)


@dataclass(frozen=True)
class CentredSums:
    """The texts of R replicates of `sums`, each replicate about its own mean.

    So s_n . s_m becomes (s_n - n_n mean) . (s_m - n_m mean). `count` is the number of tokens V,
    `with_mean` (G, R, N) the products s_n . mean, `mean_square` ||mean||^2, and `trace` the variance
    summed over features, (G, R, 1) each. `weights` (R, N) are 0 or 1.
    """

    sums: TextSums
    weights: Tensor
    count: Tensor
    with_mean: Tensor
    mean_square: Tensor
    trace: Tensor

    def mean_own(self) -> Tensor:
        """Return the average of ||s_n||^2 over the texts of each replicate, (R,), in the first group."""
        count = self.sums.count[0]
        diagonal = self.sums.products[0].diagonal()
        own = diagonal - 2 * count * self.with_mean[0] + count.square() * self.mean_square[0]
        return (own * self.weights).sum(1) / self.weights.sum(1)

    def windows(self, replicate: int, order: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return ||s_B||^2 and the tokens n_B of each window B of `size` consecutive texts, (G, windows)."""
        texts = order.unfold(0, size, 1)  # (windows, size)
        products = self.sums.products
        squares = torch.zeros(len(products), len(texts), dtype=products.dtype)
        # By the distance of the two texts of a pair, since all pairs at once need size times the memory.
        for lag in range(size):
            pairs = products[:, order[: len(order) - lag], order[lag:]]
            squares += pairs.unfold(1, size - lag, 1).sum(2) * (2 if lag else 1)
        count = self.sums.count[:, texts].sum(2)
        with_mean = self.with_mean[:, replicate][:, texts].sum(2)
        return squares - 2 * count * with_mean + count.square() * self.mean_square[:, replicate], count


def random_excess(part: CentredSums, size: int) -> Tensor:
    """Return the noise of random batches of `size` texts against independent tokens, (R,).

    sqrt(E ||s_B||^2 / E [n_B (V - n_B) / (V - 1) tr var]): the denominator is the expectation when all V
    tokens are permuted over the texts, so it is 1 under that null whatever the lengths. Its square is the
    design effect of clusters (Kish 1965, Survey Sampling).
    """
    texts, count, total = part.weights.sum(1), part.sums.count[0], part.count[0, :, 0]
    finite = (texts - size) / (texts - 1)
    noise = size * part.mean_own() * finite
    mean, square = total / texts, part.weights @ count.square() / texts
    tokens = size * mean
    tokens_square = tokens.square() + size * (square - mean.square()) * finite
    null = part.trace[0, :, 0] * (total * tokens - tokens_square) / (total - 1)
    return (noise / null).sqrt()


def random_noise(part: CentredSums, size: int) -> Tensor:
    """Return the noise of the mean of `size` texts drawn at random with replacement, (R,).

    sqrt(E ||s_B||^2 / tr var) / E n_B, the norm-ratio form of Wang et al. (arXiv 2210.05153).
    """
    tokens = part.count[0, :, 0] / part.weights.sum(1)
    return (part.mean_own() / size / part.trace[0, :, 0]).sqrt() / tokens


@dataclass(frozen=True)
class SortedPairs:
    """The pairs of texts in the same batches by length, for R replicates: `first` and `second` (R, K).

    A batch is a window of consecutive texts of an order. `windows` (R, K) is how many windows of all orders
    hold both texts of a pair, twice that for two different texts, and 0 for what fills a row up.
    """

    first: Tensor
    second: Tensor
    windows: Tensor

    @classmethod
    def of(cls, orders: Tensor, weights: Tensor, size: int) -> "SortedPairs":
        """Find the pairs of `size` texts in `orders` (O, N) of the texts whose `weights` (R, N) are 1."""
        rows = [torch.cat([_pairs(order[row[order] > 0], size) for order in orders]) for row in weights]
        return cls(*pad_sequence(rows, batch_first=True).unbind(2))


def _pairs(order: Tensor, size: int) -> Tensor:
    """Return first text, second text and number of windows for each pair in an order of texts, (pairs, 3)."""
    place, parts = torch.arange(len(order)), []
    for lag in range(min(size, len(order))):
        first = place[: len(order) - lag]
        starts = first.clamp(max=len(order) - size) - (first + lag - size + 1).clamp(min=0) + 1
        parts.append(torch.stack([order[first], order[first + lag], starts * (2 if lag else 1)], dim=1))
    return torch.cat(parts)


def sorted_excess(part: CentredSums, pairs: SortedPairs) -> Tensor:
    """Return the same as `random_excess` for batches of consecutive texts, (R,), averaged over orders."""
    a, b, total = pairs.first, pairs.second, part.count[0, :, 0]
    with_mean, of_a, of_b = part.with_mean[0], part.sums.count[0][a], part.sums.count[0][b]
    products = part.sums.products[0][a, b] - of_a * with_mean.gather(1, b) - of_b * with_mean.gather(1, a)
    both = of_a * of_b
    noise = (pairs.windows * (products + both * part.mean_square[0])).sum(1)
    tokens = total * (pairs.windows * of_a.where(a == b, 0.0)).sum(1) - (pairs.windows * both).sum(1)
    return (noise / (part.trace[0, :, 0] * tokens / (total - 1))).sqrt()


def grouped_ratio(part: CentredSums, size: int, orders: Tensor) -> Tensor:
    """Return the noise of sorted batches over that of random ones in groups of one token a text, (R, 2).

    The noise of a group is the mean of ||mu_B - mu||^2 / tr var over the batches that have a token of it,
    corrected by (V - 1) / (V - n_B) for drawing without replacement; it is averaged over groups. For random
    batches it is E[1 / n_B | n_B > 0], with n_B hypergeometric. The second number is what follows from the
    numbers of tokens n_B alone: 1 / n_B in place of the noise of sorted batches.
    """
    return torch.stack([_grouped_ratio(part, row, size, orders) for row in range(len(part.weights))])


def _grouped_ratio(part: CentredSums, row: int, size: int, orders: Tensor) -> Tensor:
    weights, tokens, trace = part.weights[row], part.count[:, row], part.trace[:, row]
    total, alone, hits = torch.zeros(3, len(tokens), dtype=torch.float64)
    members = part.sums.count.sum(0) > 0
    for order in orders:
        chosen = order[weights[order] > 0]
        # Only long texts come to late positions: windows without any of them are passed over.
        first = int(members[chosen].int().argmax())
        squares, count = part.windows(row, chosen[max(0, first - size + 1) :], size)
        used = (count > 0) & (count < tokens)
        each = squares / count.square() / trace * (tokens - 1) / (tokens - count)
        total = total + each.where(used, 0.0).sum(1)
        alone = alone + (1 / count).where(used, 0.0).sum(1)
        hits = hits + used.sum(1)
    texts = int(weights.sum())
    random = torch.tensor([inverse_hits(texts, int(count), size) for count in tokens[:, 0]])
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
