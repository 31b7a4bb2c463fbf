"""All moments of one layer, mergeable in any order.

What is kept is a (position x feature) table and a few scalars per view, so memory grows with
the longest sample and not with the corpus. The views `feature`, `position` and `global` are
read off the table; `token`, `sequence` and `instance` are complete within a batch and are
summarised as they pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.statistics.moments import CoMoments, Likeness, Moments, Spread
from normscope.statistics.outliers import OutlierCounts
from normscope.statistics.token_identity import Words


@dataclass
class Groups:
    """Groups too many to keep (tokens, samples): the spread of their means and of their variances."""

    mean: Spread
    variance: Spread

    @classmethod
    def empty(cls, device: torch.device | str) -> "Groups":
        """Return the spread of no groups."""
        return cls(Spread.empty(device), Spread.empty(device))

    def add(self, mean: Tensor, variance: Tensor) -> None:
        """Add groups with these means and variances."""
        self.mean.merge(Spread.of(mean))
        self.variance.merge(Spread.of(variance))

    def merge(self, new: "Groups") -> None:
        """Add `new`."""
        self.mean.merge(new.mean)
        self.variance.merge(new.variance)


class Accumulator:
    """The running moments of one layer with D features and this eps, on one device.

    `table` (T, D) pairs the input x with the layer's own normalization y by position; `output`
    (1, D) holds y's moments per feature; `by_position` (T, 2) each token's mean and variance;
    `within_samples` is the sum of squares of x around its sample's mean, per feature; `outliers`
    counts what stands out of the input and of the layer's real output. `words`, x by token id, is kept
    only where a number of ids is given, None else.
    """

    def __init__(
        self, features: int, eps: float, device: torch.device | str = "cpu", words: int | None = None
    ) -> None:
        self.eps = eps
        self.table = CoMoments.empty(0, features, device)
        self.output = Moments.empty(1, features, device)
        self.by_position = Moments.empty(0, 2, device)
        self.token, self.sequence, self.instance = (Groups.empty(device) for _ in range(3))
        self.sequence_likeness, self.instance_likeness = (Likeness.empty(device) for _ in range(2))
        self.within_samples = torch.zeros(1, features, dtype=torch.float64, device=device)
        self.outliers = OutlierCounts(features, device)
        self.words = None if words is None else Words(features, words, device)

    def empty(self) -> "Accumulator":
        """Return moments like these of nothing yet."""
        words = None if self.words is None else self.words.most
        return Accumulator(self.output.mean.shape[1], self.eps, self.output.mean.device, words)

    def merge(self, new: "Accumulator") -> None:
        """Add what `new` has seen of the same layer, in any order."""
        for name in ("table", "output", "by_position", "token", "sequence", "instance", "outliers"):
            getattr(self, name).merge(getattr(new, name))
        self.sequence_likeness.merge(new.sequence_likeness)
        self.instance_likeness.merge(new.instance_likeness)
        self.within_samples += new.within_samples
        if new.words is not None:
            self.words = self.words or new.words.empty()
            self.words.merge(new.words)

    @property
    def count(self) -> int:
        """How many tokens were seen."""
        return int(self.output.count)

    @property
    def positions(self) -> int:
        """How many positions were seen, counted from 0 to the last."""
        return len(self.table.co)

    @property
    def samples(self) -> int:
        """How many samples were seen; a layer called twice in a forward sees each of them twice."""
        return int(self.sequence.mean.moments.count)
