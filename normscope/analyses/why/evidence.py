"""Evidence on the claims at one layer: numbers by text, which can be weighted and replicated.

Each function takes `weights` (R, N), how often each of N texts counts, and returns R numbers: the value
itself and its replicates, with the weights of `jackknife.replicates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normscope.analyses.why.nulls import spaced
from normscope.statistics.expected_noise import TextSums
from normscope.statistics.moments import Labels, Moments, grown
from normscope.statistics.similarity import likeness_kept

# So many late positions stand for all: each takes a matrix of all pairs of texts.
_LATE = 8


@dataclass(frozen=True)
class LayerRows:
    """The tokens of N texts at one layer: what enters it, and what its own normalization makes of a text.

    `x` (V, D), the `text` (V,) from 0 to N - 1, the `position` (V,), and whether it is `special` (V,),
    for each row; `output` (N, D) is the mean of y over each text's tokens that are not special.
    """

    name: str
    eps: float
    x: Tensor
    text: Tensor
    position: Tensor
    special: Tensor
    output: Tensor

    def ordinary(self) -> "LayerRows":
        """Return the rows that are not special."""
        kept = (~self.special).nonzero().flatten()
        x, text, position, special = (v[kept] for v in (self.x, self.text, self.position, self.special))
        return replace(self, x=x, text=text, position=position, special=special)

    def by_text(self) -> Moments:
        """Return the moments of each text per feature, (N, D); a text without a row has the count 0."""
        found = Moments.by_group(self.x, Labels.of(self.text))
        found.grow(len(self.output))
        return found


def explained_by_position(rows: LayerRows, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return epsilon squared of the position without special tokens and with them, (1 + G,) each.

    The first number is that of all texts; in each other one group of texts, `group` (N,), is left out. See
    `metrics.explained`.
    """
    # Float32 is enough for the few rows of a cell, once they are centred.
    x = rows.x - rows.x.mean(0, dtype=torch.float64).to(rows.x.dtype)
    square, part = x.double().square().sum(1), group[rows.text]
    ordinary = (~rows.special).nonzero().flatten()
    without = _Groups.of(x[ordinary], square[ordinary], rows.position[ordinary], part[ordinary], group)
    if len(ordinary) == len(x):
        return without.epsilon2(), without.epsilon2()
    special = rows.special.nonzero().flatten()
    other = _Groups.of(x[special], square[special], rows.position[special], part[special], group)
    return without.epsilon2(), without.plus(other).epsilon2()


@dataclass
class _Groups:
    """Sums of centred rows by position and group: `sums` (T, G, D), `count` (T, G), `square` (G,)."""

    sums: Tensor
    count: Tensor
    square: Tensor

    @classmethod
    def of(cls, x: Tensor, square: Tensor, position: Tensor, part: Tensor, group: Tensor) -> "_Groups":
        """Add up rows x (V, D) with their squares, positions, and groups `part` (V,)."""
        groups = int(group.max()) + 1
        positions = int(position.max()) + 1 if len(position) else 0
        cell = position * groups + part
        sums = torch.zeros(positions * groups, x.shape[1], dtype=x.dtype).index_add_(0, cell, x)
        count = torch.bincount(cell, minlength=positions * groups).double()
        whole = torch.zeros(groups, dtype=torch.float64).index_add_(0, part, square)
        return cls(sums.view(positions, groups, -1), count.view(positions, groups), whole)

    def plus(self, other: "_Groups") -> "_Groups":
        """Return the sums of both."""
        positions = max(len(self.sums), len(other.sums))

        def both(a: Tensor, b: Tensor) -> Tensor:
            return grown(a, positions) + grown(b, positions)

        return _Groups(both(self.sums, other.sums), both(self.count, other.count), self.square + other.square)

    def epsilon2(self) -> Tensor:
        """Return epsilon squared of the position, of all rows and without each group, (1 + G,)."""
        whole = self.sums.sum(1, keepdim=True, dtype=torch.float64)  # (T, 1, D)
        total = whole.square().sum(2)
        # ||S - S_g||^2 of a position's sum S, without the sum S_g of one group.
        product = torch.einsum("tgd,tud->tg", self.sums, whole.to(self.sums.dtype)).double()
        square = total - 2 * product + self.sums.square().sum(2, dtype=torch.float64)
        square = torch.cat([total, square], dim=1)
        left = self.count.sum(1, keepdim=True) - torch.cat([torch.zeros(len(total), 1), self.count], dim=1)
        between = (square / left.clamp(min=1)).where(left > 0, 0.0).sum(0)
        sums = _without(self.sums.sum(0, dtype=torch.float64))
        return _epsilon2(between, sums, _without(self.square), _without(self.count.sum(0)), (left > 0).sum(0))


def _without(parts: Tensor) -> Tensor:
    """Return the sum over all groups of `parts` (G, ...), and the sums without each of them, (1 + G, ...)."""
    whole = parts.sum(0, keepdim=True)
    return torch.cat([whole, whole - parts])


def explained_by_text(by_text: Moments, weights: Tensor) -> Tensor:
    """Return epsilon squared of the text, (R,), from the moments (N, D) of each text."""
    sums = by_text.count * (by_text.mean - by_text.pool(0).mean)
    count = by_text.count[:, 0]
    between = sums.square().sum(1) / count.clamp(min=1)
    groups = weights @ (count > 0).double()
    squares = weights @ (between + by_text.m2.sum(1))
    return _epsilon2(weights @ between, weights @ sums, squares, weights @ count, groups)


def _epsilon2(between: Tensor, whole: Tensor, squares: Tensor, count: Tensor, groups: Tensor) -> Tensor:
    """Turn sums of squares around 0 into those around the weighted mean, and these into epsilon squared."""
    middle = whole.square().sum(1) / count
    unexplained = 1 - (between - middle) / (squares - middle)
    return 1 - unexplained * (count - 1) / (count - groups)


def text_vectors(rows: LayerRows, by_text: Moments) -> dict[str, Tensor]:
    """Return the mean vector (N, D) of each text that has a row, under several normalizations.

    "own" is the layer's own y. The others are (x - centre) / scale with the centre or the scale, or both,
    of BatchNorm's features ("feature") or of the whole text ("sequence"): "feature scale" leaves the centre
    at 0, "feature centre" the scale at 1. With one scale for a whole text, its direction does not change.
    """
    there = (by_text.count[:, 0] > 0).nonzero().flatten()
    by_text = by_text.take(there)
    feature, sequence = by_text.pool(0), by_text.pool(1)
    feature_scale = (feature.variance() + rows.eps).sqrt()
    return {
        "own": rows.output.double()[there],
        "feature": (by_text.mean - feature.mean) / feature_scale,
        "feature scale": by_text.mean / feature_scale,
        "feature centre": by_text.mean - feature.mean,
        "sequence": (by_text.mean - sequence.mean) / (sequence.variance() + rows.eps).sqrt(),
    }


def likenesses_kept(rows: LayerRows, by_text: Moments, weights: Tensor) -> dict[str, Tensor]:
    """Return how well each of `text_vectors` keeps the similarities of the layer's own ones, (R,) each."""
    vectors = text_vectors(rows, by_text)
    there = weights[:, by_text.count[:, 0] > 0]
    return {
        name: likeness_kept(vectors["own"], other, there) for name, other in vectors.items() if name != "own"
    }


def late_positions(rows: LayerRows, texts: int, size: int) -> list[int]:
    """Choose positions that a quarter to half of the texts reach, and enough for two batches of `size`."""
    count = torch.bincount(rows.position)
    late = ((count >= max(2 * size, texts / 4)) & (count < texts / 2)).nonzero().flatten()
    return spaced(late.tolist(), _LATE)


def noise_at(rows: LayerRows, positions: Sequence[int], texts: int) -> TextSums:
    """Return the sums of the tokens at some positions, each a group."""
    return TextSums.of_groups(rows.x, rows.text, rows.position, texts, positions)
