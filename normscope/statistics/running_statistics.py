"""BatchNorm's running statistics over the batches of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from normscope.statistics.moments import Moments
from normscope.statistics.safetensors_file import FileKind

MOMENTUM = 0.1
_PARTS = ("mean", "variance")
# It stands in the folder of a checkpoint of the training.
FILE = FileKind(
    "normscope-running.safetensors", "normscope.running/1", "file of running statistics", "NormCallback"
)


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


def write_running(running: RunningByLayer, folder: Path) -> None:
    """Write the running statistics of all layers into a folder; ReportError if it cannot be written."""
    FILE.write(folder, tensors_of(running), {})


def read_running(folder: Path) -> dict[str, RunningStatistics]:
    """Read the running statistics in a folder, none if it has no such file; ReportError if it is damaged."""
    if not (folder / FILE.name).is_file():
        return {}
    return FILE.read(folder, lambda tensors, _: of_tensors(tensors))


def tensors_of(running: RunningByLayer) -> dict[str, Tensor]:
    """Return the running statistics of all layers as named tensors."""
    return {f"{part}/{name}": getattr(one, part) for name, one in running.items() for part in _PARTS}


def of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, RunningStatistics]:
    """Return the running statistics of all layers from what `tensors_of` returns."""
    names = [name.partition("/")[2] for name in tensors if name.startswith("mean/")]
    return {name: RunningStatistics(*(tensors[f"{part}/{name}"] for part in _PARTS)) for name in names}
