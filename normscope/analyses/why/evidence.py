"""Evidence on the claims: numbers by text, which can be weighted and resampled.

Each function takes `weights` (R, N), how often each of N texts counts, and returns R numbers: the
value itself with weights of one, its bootstrap replicates with those of `bootstrap.weights`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normscope.statistics.moments import Labels, Moments


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
        """Return the moments of each text per feature, (N, D)."""
        return Moments.by_group(self.x.double(), Labels.of(self.text))


def explained_by_position(rows: LayerRows, weights: Tensor) -> Tensor:
    """Return epsilon squared of the position, (R,): see `metrics.explained`."""
    x, weight = _centred(rows), weights[:, rows.text]  # (V, D), (R, V)
    between, groups = torch.zeros(2, len(weights), dtype=torch.float64)
    whole = torch.zeros(len(weights), x.shape[1], dtype=torch.float64)
    for at in torch.unique(rows.position):
        here = (rows.position == at).nonzero().flatten()
        count = weight[:, here].sum(1)
        sums = weight[:, here] @ x[here]  # (R, D)
        between += sums.square().sum(1) / count.clamp(min=1)
        groups += count > 0
        whole += sums
    return _epsilon2(between, whole, weight @ x.square().sum(1), weight.sum(1), groups)


def explained_by_text(rows: LayerRows, weights: Tensor) -> Tensor:
    """Return epsilon squared of the text, (R,); a text that is drawn twice counts as two texts."""
    x, texts = _centred(rows), weights.shape[1]
    sums = torch.zeros(texts, x.shape[1], dtype=torch.float64).index_add_(0, rows.text, x)
    squares = torch.zeros(texts, dtype=torch.float64).index_add_(0, rows.text, x.square().sum(1))
    count = torch.bincount(rows.text, minlength=texts).double()
    between = weights @ (sums.square().sum(1) / count.clamp(min=1))
    groups = weights @ (count > 0).double()
    return _epsilon2(between, weights @ sums, weights @ squares, weights @ count, groups)


def _centred(rows: LayerRows) -> Tensor:
    x = rows.x.double()
    return x - x.mean(0)


def _epsilon2(between: Tensor, whole: Tensor, squares: Tensor, count: Tensor, groups: Tensor) -> Tensor:
    """Turn sums of squares around 0 into those around the weighted mean, and these into epsilon squared."""
    middle = whole.square().sum(1) / count
    unexplained = 1 - (between - middle) / (squares - middle)
    return 1 - unexplained * (count - 1) / (count - groups)


def sentence_vectors(rows: LayerRows) -> dict[str, Tensor]:
    """Return each text's mean output (N, D) of the layer's own normalization, of the text's, and of BN's.

    Texts without a row are left out. "own" is y; "sequence" takes one mean and variance per text,
    "feature" one per feature of all texts.
    """
    there = torch.unique(rows.text)
    by_text = rows.by_text().take(there)
    everything = by_text.pool(0)
    by_sequence = by_text.pool(1)
    sequence = (by_text.mean - by_sequence.mean) / (by_sequence.variance() + rows.eps).sqrt()
    feature = (by_text.mean - everything.mean) / (everything.variance() + rows.eps).sqrt()
    return {"own": rows.output.double()[there], "sequence": sequence, "feature": feature}


def late_share(lengths: Tensor, weights: Tensor) -> Tensor:
    """Return the share (R,) of the positions that fewer than half of the texts reach."""
    reached = (lengths[:, None] > torch.arange(int(lengths.max()))).double()  # (N, T)
    share = weights @ reached / weights.sum(1, keepdim=True)
    return (share < 0.5).double().mean(1)
