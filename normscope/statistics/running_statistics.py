"""BatchNorm's running statistics over the batches of a training."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from normscope.statistics.moments import Moments

MOMENTUM = 0.1


@dataclass(frozen=True)
class RunningStatistics:
    """The running mean and variance of each feature of a layer, (D,) each, in float64 on the CPU.

    They follow nn.BatchNorm1d: running = (1 - momentum) running + momentum batch, and the variance of a
    batch is the unbiased one. They start from the first batch, not from PyTorch's 0 and 1, whose weight
    after a few batches would still be (1 - momentum)^batches.
    """

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, batch: Moments) -> "RunningStatistics":
        """Return the statistics after a first batch, whose moments are (1, D)."""
        batch = batch.to("cpu")
        return cls(batch.mean[0], batch.m2[0] / (batch.count[0] - 1).clamp(min=1))

    def updated(self, batch: Moments, momentum: float) -> "RunningStatistics":
        """Return the statistics after one more batch, whose moments are (1, D)."""
        new = RunningStatistics.of(batch)
        return RunningStatistics(
            self.mean.lerp(new.mean, momentum), self.variance.lerp(new.variance, momentum)
        )


RunningByLayer = Mapping[str, RunningStatistics]
