"""Outliers: large features of a layer's output, massive activations of its input, and recurring features.

Only counts and maxima are stored, so the order in which parts are merged does not change the numbers.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.results.inspect import LayerReport, OutlierFeature
from normscope.statistics.alignment import Alignment
from normscope.statistics.moments import Rows, grown

# LLM.int8's threshold on a feature's output, and the share of the tokens that must reach it.
LARGE, LARGE_SHARE = 6.0, 0.06
# A feature recurs if it is large in this share of the layers of its width, and in at least SEVERAL layers.
LAYER_SHARE, SEVERAL = 0.25, 2
# |x| of a massive activation is over MASSIVE, and at least MEDIANS times the median of its sample.
MASSIVE, MEDIANS = 100.0, 1000.0


class MassiveElements(NamedTuple):
    """The massive elements of a batch: their number per feature (D,) and per position (T, 1), and max |x|."""

    features: Tensor
    positions: Tensor
    largest: Tensor

    @classmethod
    def of(cls, x: Tensor, where: Alignment, candidates: Sequence[int]) -> "MassiveElements | None":
        """Find the massive elements of x (V, D) in the samples numbered in `candidates`; None without any."""
        sample = where.sample
        ends = sample.count[:, 0].cumsum(0).long()
        features, positions, largest = [], [], []
        for i in candidates:
            part = slice(int(ends[i]) - int(sample.count[i]), int(ends[i]))
            sizes = x[part].abs()
            massive = (sizes > MASSIVE) & (sizes >= MEDIANS * _median(sizes))
            row, feature = massive.nonzero(as_tuple=True)
            if len(row):
                features.append(feature)
                positions.append(where.position.group[part][row])
                largest.append(sizes.max().double())
        if not features:
            return None
        counts = torch.bincount(torch.cat(features), minlength=x.shape[1]).double()
        by_position = torch.bincount(torch.cat(positions))[:, None].double()
        return cls(counts, by_position, torch.stack(largest).max())


class BatchOutliers(NamedTuple):
    """The outliers of a batch: `large` and `largest` (D,) of its output over `tokens` tokens, as in a layer.

    Without a known output, `tokens` is 0 and both are None.
    """

    tokens: int
    large: Tensor | None
    largest: Tensor | None
    massive: MassiveElements | None

    @classmethod
    def of(cls, rows: Rows, sizes: Tensor | None, where: Alignment) -> "BatchOutliers":
        """Find the outliers in the input `rows` and, if it is known, in |output|, the `sizes` (V, D)."""
        large, largest = (None, None) if sizes is None else _large(sizes)
        massive = None
        if rows.reach > 0.99 * MASSIVE:
            massive = MassiveElements.of(rows.x, where, _candidates(rows, where))
        return cls(0 if sizes is None else len(sizes), large, largest, massive)


class OutlierCounts:
    """Counts and maxima of the outliers of a layer with D features.

    Of the output, over `tokens` tokens: `large` (D,) is the number of tokens in which each feature has
    |output| >= 6, and `largest` (D,) is the maximum of |output| per feature. Of the input: `massive` (D,)
    is the number of massive elements per feature, `massive_positions` (T, 1) their number per position,
    and `massive_largest` () the maximum of their |x|.

    The thresholds on outputs are those of Dettmers et al., 2022, arXiv 2208.07339, section 4.1. An
    element is massive if |x| > 100 and |x| >= 1000 times the median of |x| over the tokens of its sample
    that count (Sun et al., 2024, arXiv 2402.17762). If a sample comes in several forward passes, as in
    generation, the median is over the tokens of one forward pass.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.large, self.largest, self.massive = (
            torch.zeros(features, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.massive_positions = torch.zeros(0, 1, dtype=torch.float64, device=device)
        self.massive_largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, batch: BatchOutliers) -> None:
        """Add the outliers of a batch."""
        if batch.large is not None and batch.largest is not None:
            self.tokens += batch.tokens
            self.large += batch.large
            torch.fmax(self.largest, batch.largest, out=self.largest)
        if batch.massive is not None:
            self.massive += batch.massive.features
            self._add_positions(batch.massive.positions)
            self.massive_largest = torch.maximum(self.massive_largest, batch.massive.largest)

    def merge(self, new: "OutlierCounts") -> None:
        """Add `new`."""
        self.tokens += new.tokens
        self.large += new.large
        self.largest = torch.fmax(self.largest, new.largest)
        self.massive += new.massive
        self._add_positions(new.massive_positions)
        self.massive_largest = torch.maximum(self.massive_largest, new.massive_largest)

    def _add_positions(self, counts: Tensor) -> None:
        self.massive_positions = grown(self.massive_positions, len(counts))
        self.massive_positions[: len(counts)] += counts


def _large(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return per feature the number of rows of `sizes` (V, D) in which it is large, and its maximum, (D,)."""
    largest = sizes.amax(0)
    if sizes.device.type != "cpu":  # There, counting all features is faster than a wait for the large ones.
        return (sizes >= LARGE).sum(0).double(), largest
    large = torch.zeros(sizes.shape[1], dtype=torch.float64)
    # Few features reach the threshold, so only a few columns must be counted.
    reached = (~(largest < LARGE)).nonzero()[:, 0]
    if len(reached):
        columns = sizes.T.index_select(0, reached)
        large.index_add_(0, reached, (columns >= LARGE).sum(1).double())
    return large, largest


def _candidates(rows: Rows, where: Alignment) -> list[int]:
    """Return the samples that may have a massive element: half of their elements are 1000 times smaller.

    This takes one pass over the elements; a median takes many.
    """
    x, sample = rows.x, where.sample
    # 0.99 leaves room for rounding in the bounds.
    suspects = (rows.bounds() > 0.99 * MASSIVE).nonzero()[:, 0]
    peaks = x.index_select(0, suspects).abs_().amax(1)
    peak = peaks.new_zeros(len(sample.count))  # (B,)
    peak.scatter_reduce_(0, sample.group[suspects], peaks, "amax")
    if not bool((peak > MASSIVE).any()):
        return []
    bar = (peak / MEDIANS).index_select(0, sample.group)[:, None]
    below = sample.sums(x.abs().le_(bar).sum(1, keepdim=True).double()) * 2  # (B, 1)
    half = below >= sample.count * x.shape[1]
    return [int(i) for i in (half[:, 0] & (peak > MASSIVE)).nonzero()[:, 0]]


def _median(sizes: Tensor) -> Tensor:
    """Return the median of all elements; for an even number, the mean of the two middle elements."""
    flat = sizes.flatten()
    return (flat.median().double() - flat.neg().median().double()) / 2


def outlier_features(layers: Iterable[LayerReport]) -> tuple[OutlierFeature, ...]:
    """List the features that reach 6 in 6 % of the tokens, in 25 % of the layers of their width.

    Features of many layers come first. Dettmers et al., 2022, arXiv 2208.07339, section 4.1. At least two
    layers are required: if there are few layers, one of them can be 25 %, but its feature does not recur.
    Layers whose output is not known are not counted.
    """
    names: dict[tuple[int, int], list[str]] = defaultdict(list)
    measured: dict[int, int] = defaultdict(int)
    for layer in layers:
        large = layer.outliers.llm_int8 if layer.outliers else None
        if large is not None:
            measured[layer.features] += 1
            for feature in large.features.tolist():
                names[layer.features, feature].append(layer.name)
    features = [
        OutlierFeature(feature, width, tuple(layer_names), len(layer_names) / measured[width])
        for (width, feature), layer_names in names.items()
        if len(layer_names) >= max(SEVERAL, LAYER_SHARE * measured[width])
    ]
    return tuple(sorted(features, key=lambda one: (-len(one.layers), one.width, one.feature)))
