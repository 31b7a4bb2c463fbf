"""All moments of one layer, mergeable in any order.

An accumulator holds a (position x feature) table and a few scalars per view. Its memory therefore grows
with the longest sample, not with the corpus. The views `feature`, `position` and `global` are computed
from the table. A group of the views `token`, `sequence` and `instance` is complete within one batch, so
each batch adds only a summary of its groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.errors import ReportError
from normscope.statistics.curve_histogram import CurveHistogram
from normscope.statistics.extremes import LargestValues
from normscope.statistics.moments import CoMoments, Likeness, Moments, Spread
from normscope.statistics.outliers import OutlierCounts
from normscope.statistics.state_dict import load_state_dict, state_dict
from normscope.statistics.token_identity import TokenMoments
from normscope.statistics.token_variances import TokenVariances

_PARTS = (
    "table", "output", "by_position", "variances", "mean_share", "token", "sequence", "instance", "outliers",
    "extremes",
)  # fmt: skip


@dataclass
class Groups:
    """Groups that are too many to store (tokens, samples): the spread of their means and variances."""

    mean: Spread
    variance: Spread

    @classmethod
    def empty(cls, device: torch.device | str) -> "Groups":
        """Return the spread of no groups."""
        return cls(Spread.empty(device), Spread.empty(device))

    def add(self, mean: Tensor, variance: Tensor) -> None:
        """Add groups with these means and variances, tensors of one shape."""
        self.mean.merge(Spread.of(mean))
        self.variance.merge(Spread.of(variance))

    def merge(self, new: "Groups") -> None:
        """Add `new`."""
        self.mean.merge(new.mean)
        self.variance.merge(new.variance)


class Accumulator:
    """The running moments of one layer with D features and this eps, on one device.

    `table` (T, D) holds, by position, the moments of the input x and its co-moments with y, the layer's
    own normalization of x before the affine. `output` (1, D) holds the moments of y per feature.
    `by_position` (T, 2) holds, by position, the moments of the tokens' means (column 0) and variances
    (column 1), and `variances` the range and histogram of these variances. `mean_share` (1, 1) holds the
    moments of mean^2 / (mean^2 + variance) of the tokens; its mean is NaN if a part is from a file of an
    earlier version. `within_samples` (1, D) is the sum of squares of x around the mean of its sample, per
    feature. `outliers` counts outliers of the input and of the layer's real output, and `extremes` holds
    the largest values of both. The attribute `words` holds the moments of x by token id; it is None unless
    the argument `words`, the maximum number of ids, is given. `curve`, the histogram of x and y, is None
    unless it is requested.
    """

    def __init__(
        self,
        features: int,
        eps: float,
        device: torch.device | str = "cpu",
        words: int | None = None,
        *,
        curve: bool = False,
    ) -> None:
        self.eps = eps
        self.table = CoMoments.empty(0, features, device)
        self.output = Moments.empty(1, features, device)
        self.by_position = Moments.empty(0, 2, device)
        self.variances = TokenVariances(device)
        self.mean_share = Moments.empty(1, 1, device)
        self.token, self.sequence, self.instance = (Groups.empty(device) for _ in range(3))
        self.sequence_likeness, self.instance_likeness = (Likeness.empty(device) for _ in range(2))
        self.within_samples = torch.zeros(1, features, dtype=torch.float64, device=device)
        self.outliers = OutlierCounts(features, device)
        self.extremes = LargestValues(features, device)
        self.words = None if words is None else TokenMoments(features, words, device)
        self.curve = CurveHistogram(device) if curve else None

    def empty(self) -> "Accumulator":
        """Return an empty accumulator with the same features, eps, device and requested parts."""
        words = None if self.words is None else self.words.most
        device = self.output.mean.device
        return Accumulator(self.features, self.eps, device, words, curve=self.curve is not None)

    def state_dict(self, *, copy: bool = False) -> dict[str, Tensor]:
        """Return all moments as named tensors on the CPU; they may share memory, unless `copy`."""
        return state_dict(self, copy=copy)

    @classmethod
    def of_state_dict(cls, tensors: Mapping[str, Tensor], features: int) -> "Accumulator":
        """Return the accumulator of a layer with `features` features; it takes these tensors as its own.

        Raises ReportError if a tensor is missing or cannot be that of such a layer.
        """
        # Checked first: a wrong number of features must not allocate that much memory.
        if not 0 < features == tensors.get("output.mean", torch.empty(0, 0)).shape[-1:].numel():
            raise ReportError(f"the tensor 'output.mean' is not of {features} features; expected that")
        words = 1 if "words.most" in tensors else None
        moments = cls(features, 0.0, words=words, curve="curve.histogram" in tensors)
        load_state_dict(moments, {**_unknown(tensors, features), **tensors})
        if moments.words is not None and not moments.words.is_numbered():
            raise ReportError("the rows of 'words' are not numbered from 0 within its tables; expected that")
        return moments

    def merge(self, new: "Accumulator") -> None:
        """Add the moments that `new` holds of the same layer; the order of merges does not matter."""
        for name in _PARTS:
            getattr(self, name).merge(getattr(new, name))
        self.sequence_likeness.merge(new.sequence_likeness)
        self.instance_likeness.merge(new.instance_likeness)
        self.within_samples += new.within_samples
        if new.words is not None:
            self.words = self.words or new.words.empty()
            self.words.merge(new.words)
        if new.curve is not None:
            self.curve = self.curve or CurveHistogram(new.curve.histogram.device)
            self.curve.merge(new.curve)

    @property
    def features(self) -> int:
        """The number of features D."""
        return self.output.mean.shape[1]

    @property
    def count(self) -> int:
        """The number of tokens that were added."""
        return int(self.output.count)

    @property
    def positions(self) -> int:
        """The number of rows of the table: one per position from 0, or one per bin of positions."""
        return len(self.table.co)

    @property
    def samples(self) -> int:
        """The number of samples; a layer that is called twice in a forward pass counts each sample twice."""
        return int(self.sequence.mean.moments.count)


def _unknown(tensors: Mapping[str, Tensor], features: int) -> dict[str, Tensor]:
    """Return the tensors that files of earlier versions lack; their NaN remains NaN in every merge."""
    share, extremes = Moments.empty(1, 1), LargestValues(features)
    for values in (share.mean, share.m2, extremes.feature, extremes.input.value, extremes.output.value):
        values.fill_(torch.nan)
    parts = {
        "mean_share": share,
        "variances": TokenVariances.unknown(len(tensors.get("by_position.count", ()))),
        "extremes": extremes,
    }
    return {f"{part}.{name}": v for part, of in parts.items() for name, v in state_dict(of).items()}
