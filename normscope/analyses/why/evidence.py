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
from normscope.statistics.moments import Labels, Moments
from normscope.statistics.similarity import likeness_kept

# So many late positions stand for all: each takes a matrix of all pairs of texts.
_LATE = 8
# A block of so many texts or rows fits into the processor's cache.
_TEXTS, _ROWS = 16, 1024


@dataclass(frozen=True)
class LayerRows:
    """The tokens of N texts at one layer: what enters it, and what its own normalization makes of a text.

    `x` (V, D), the `text` (V,) from 0 to N - 1, which ascends, the `position` (V,), and whether it is
    `special` (V,), for each row; `output` (N, D) is the mean of y over each text's tokens that are not
    special.
    """

    name: str
    eps: float
    x: Tensor
    text: Tensor
    position: Tensor
    special: Tensor
    output: Tensor

    def by_text(self) -> Moments:
        """Return the moments of each text per feature, (N, D), special tokens left out.

        A text without a row has the count 0.
        """
        texts = len(self.output)
        start = [0, *torch.bincount(self.text, minlength=texts).cumsum(0).tolist()]
        many = Labels.of(self.text[~self.special]).many  # So that sums do not depend on the blocks.
        parts = []
        for first in range(0, texts, _TEXTS):
            last = min(first + _TEXTS, texts)
            rows = slice(start[first], start[last])
            ordinary = ~self.special[rows]
            part = Moments.empty(0, self.x.shape[1])
            if bool(ordinary.any()):
                labels = replace(Labels.of(self.text[rows][ordinary] - first), many=many)
                part = Moments.by_group(self.x[rows][ordinary], labels)
            part.grow(last - first)
            parts.append((part.count, part.mean, part.m2))
        return Moments(*(torch.cat(tables) for tables in zip(*parts, strict=True)))


def explained_by_position(rows: LayerRows, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return epsilon squared of the position without special tokens and with them, (1 + G,) each.

    The first number is that of all texts; in each other one group of texts, `group` (N,), is left out. See
    `metrics.explained`.
    """
    ordinary, special = _Groups.of(rows, group)
    without = ordinary.epsilon2()
    return without, ordinary.plus(special).epsilon2() if bool(special.count.any()) else without


@dataclass
class _Groups:
    """Sums of centred rows by position and group: `sums` (T, G, D), `count` (T, G), `square` (G,)."""

    sums: Tensor
    count: Tensor
    square: Tensor

    @classmethod
    def of(cls, rows: LayerRows, group: Tensor) -> "tuple[_Groups, _Groups]":
        """Add up the rows that are not special, and those that are, about the mean of both."""
        positions, groups = int(rows.position.max()) + 1, int(group.max()) + 1
        part = rows.special * groups + group[rows.text]
        cell = (rows.special * positions + rows.position) * groups + group[rows.text]
        sums = torch.zeros(2 * positions * groups, rows.x.shape[1], dtype=rows.x.dtype)
        square = torch.zeros(2 * groups, dtype=torch.float64)
        blocks = [slice(start, start + _ROWS) for start in range(0, len(cell), _ROWS)]
        mean = torch.stack([rows.x[block].sum(0, dtype=torch.float64) for block in blocks]).sum(0)
        mean = (mean / len(cell)).to(rows.x.dtype)
        for block in blocks:
            # Float32 is enough for the few rows of a cell, once they are centred.
            centred = rows.x[block] - mean
            sums.index_add_(0, cell[block], centred)
            square.index_add_(0, part[block], centred.double().square_().sum(1))
        count = torch.bincount(cell, minlength=len(sums)).double().view(2, positions, groups)
        tables = sums.view(2, positions, groups, -1), count, square.view(2, groups)
        return cls(*(table[0] for table in tables)), cls(*(table[1] for table in tables))

    def plus(self, other: "_Groups") -> "_Groups":
        """Return the sums of both."""
        return _Groups(self.sums + other.sums, self.count + other.count, self.square + other.square)

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
    count = torch.bincount(rows.position[~rows.special])
    late = ((count >= max(2 * size, texts / 4)) & (count < texts / 2)).nonzero().flatten()
    return spaced(late.tolist(), _LATE)


def noise_at(rows: LayerRows, positions: Sequence[int], texts: int) -> TextSums:
    """Return the sums of the tokens at some positions, each a group, special tokens left out."""
    position = rows.position.where(~rows.special, -1)
    return TextSums.of_groups(rows.x, rows.text, position, texts, positions)
