"""Outliers of one layer: large features of its output, massive activations of its input.

Counts and maxima, so parts are merged in any order to the same numbers.
"""

import torch
from torch import Tensor

from normscope.statistics.alignment import Alignment
from normscope.statistics.moments import Rows, grown

# LLM.int8's threshold on a feature's output, and the share of the tokens that must reach it.
LARGE, LARGE_SHARE = 6.0, 0.06
# A massive activation is larger than this, and than this many times its sample's median.
MASSIVE, MEDIANS = 100.0, 1000.0


class OutlierCounts:
    """What a layer with D features has shown of outliers.

    Of its output, over `tokens` tokens: `large` (D,), in how many tokens each feature has
    |output| >= 6, and `largest` (D,), its largest |output|. Of its input: how many massive elements
    there were in each feature, `massive` (D,), and at each position, `massive_positions` (T, 1), and
    `massive_largest` (), the largest of their sizes.

    The thresholds on outputs are those of Dettmers et al., 2022, arXiv 2208.07339, section 4.1. An
    element is massive when |x| > 100 and |x| >= 1000 medians of |x| over its sample's tokens that
    count (Sun et al., 2024, arXiv 2402.17762); of a sample that comes in several forwards, as in
    generation, over those of the forward.
    """

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.large, self.largest, self.massive = (
            torch.zeros(features, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.massive_positions = torch.zeros(0, 1, dtype=torch.float64, device=device)
        self.massive_largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, rows: Rows, sizes: Tensor | None, where: Alignment) -> None:
        """Add tokens: what went in and, where it is known, |what came out|, `sizes` (V, D)."""
        if sizes is not None:
            self.add_output(len(sizes), *_large(sizes))
        if rows.reach > 0.99 * MASSIVE:
            self.add_massive(rows.x, where, _candidates(rows, where))

    def add_output(self, tokens: int, large: Tensor, largest: Tensor) -> None:
        """Add outputs by what is known of them per feature, (D,)."""
        self.tokens += tokens
        self.large += large
        torch.fmax(self.largest, largest, out=self.largest)

    def merge(self, new: "OutlierCounts") -> None:
        """Add `new`."""
        self.tokens += new.tokens
        self.large += new.large
        self.largest = torch.fmax(self.largest, new.largest)
        self.massive += new.massive
        self._add_positions(new.massive_positions)
        self.massive_largest = torch.maximum(self.massive_largest, new.massive_largest)

    def add_massive(self, x: Tensor, where: Alignment, candidates: list[int]) -> None:
        """Add the massive elements of x (V, D) in those of its samples."""
        sample = where.sample
        ends = sample.count[:, 0].cumsum(0).long()
        for i in candidates:
            part = slice(int(ends[i]) - int(sample.count[i]), int(ends[i]))
            sizes = x[part].abs()
            massive = (sizes > MASSIVE) & (sizes >= MEDIANS * _median(sizes))
            row, feature = massive.nonzero(as_tuple=True)
            if len(row):
                self.massive += torch.bincount(feature, minlength=len(self.massive))
                self._add_positions(torch.bincount(where.position.group[part][row])[:, None].double())
                self.massive_largest = torch.maximum(self.massive_largest, sizes.max().double())

    def _add_positions(self, counts: Tensor) -> None:
        self.massive_positions = grown(self.massive_positions, len(counts))
        self.massive_positions[: len(counts)] += counts


def _large(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return in how many rows of `sizes` (V, D) each feature is large, and its largest, (D,)."""
    largest = sizes.amax(0)
    if sizes.device.type != "cpu":  # There a pass over all costs less than to ask which features it takes.
        return (sizes >= LARGE).sum(0).double(), largest
    large = torch.zeros(sizes.shape[1], dtype=torch.float64)
    # Few features reach it, so that counting is only a few columns' work.
    reached = (~(largest < LARGE)).nonzero()[:, 0]
    if len(reached):
        columns = sizes.T.index_select(0, reached)
        large.index_add_(0, reached, (columns >= LARGE).sum(1).double())
    return large, largest


def _candidates(rows: Rows, where: Alignment) -> list[int]:
    """Name the samples that may have a massive element: half of theirs are 1000 times smaller.

    It takes one pass over the elements, where a median would take many.
    """
    x, sample = rows.x, where.sample
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
    """Return the median of all elements, of an even number the middle between the two in question."""
    flat = sizes.flatten()
    return (flat.median().double() - flat.neg().median().double()) / 2
