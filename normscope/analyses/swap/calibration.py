"""Calibration statistics of each layer: measured over texts, written to a file and read from it."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.analyses.swap.replacement import Statistics, obstacle
from normscope.capture.observers import RowScales
from normscope.capture.recorder import Recorder
from normscope.data.batching import Batches, Batching
from normscope.data.media_files import Inputs
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session, text_batches
from normscope.errors import UsageError
from normscope.escaping import counted
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.inspect import Report
from normscope.statistics.safetensors_file import FileKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = FileKind(
    "normscope-calibration.safetensors", "normscope.calibration/1", "calibration", "normscope swap --save"
)


@dataclass(frozen=True, repr=False)
class Calibration:
    """The statistics of a model's layers over a calibration corpus, by the layers' names.

    `model` is the id of the model. If `swap` saved the calibration, `kind` is the kind of replacement and
    `replaced` names the layers that it replaced.
    """

    model: str
    layers: Mapping[str, Statistics]
    kind: str | None = None
    replaced: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Calibration of {self.model}: {counted(len(self.layers), 'layer')}>"

    @classmethod
    def of_report(cls, report: Report) -> "Calibration":
        """Return the mean and variance per feature of each LayerNorm and RMSNorm in a report."""
        layers = {}
        for name, layer in report.layers.items():
            if layer.feature is not None and layer.kind in ("layernorm", "rmsnorm"):
                arrays = (layer.feature.mean, layer.feature.variance)
                layers[name] = Statistics(*(torch.from_numpy(array.copy()) for array in arrays))
        return cls(report.model.id, layers)

    def with_layer(self, name: str, statistics: Statistics) -> "Calibration":
        """Return a copy with other statistics of one layer."""
        return replace(self, layers={**self.layers, name: statistics})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one safetensors file into a folder, which is made if missing; return the file's path.

        The tensors are float64 and named by layer and statistic, `encoder.norm/mean`. Raises ReportError
        when the folder cannot be written.
        """
        about = {"model": self.model, "kind": self.kind or "", "replaced": json.dumps(self.replaced)}
        tensors = {
            f"{name}/{key}": value
            for name, statistics in self.layers.items()
            for key, value in statistics.known().items()
        }
        return FILE.write(folder, tensors, about)


def read_calibration(folder: str | os.PathLike[str]) -> Calibration:
    """Read the file that `normscope swap --save` or `Calibration.save` wrote; also takes its folder.

    Raises ReportError when there is no such file or it is of another kind.
    """
    return FILE.read(folder, _from_file)


def _from_file(tensors: dict[str, Tensor], about: dict[str, Any]) -> Calibration:
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, _, key = name.rpartition("/")
        layers.setdefault(layer, {})[key] = value
    statistics = {name: Statistics(**values) for name, values in layers.items()}
    replaced = tuple(json.loads(about["replaced"]))
    return Calibration(about["model"], statistics, about["kind"] or None, replaced)


def calibrate(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Measure over these texts the statistics that `swapped` needs for any kind of replacement.

    All arguments are as for `inspect`. The result has no statistics of layers that cannot be replaced.
    Raises what `inspect` raises, and UsageError when no layer can be replaced.
    """
    inputs = Inputs(texts)
    session = Session.open(model, Clock(progress), loading, tokenizer)
    batches = text_batches(session.loaded, inputs.texts or (), batching)
    return measure_calibration(session, batches, layers, exclude).calibration


@dataclass(frozen=True)
class MeasuredCalibration:
    """A calibration, the report of its run, and a sentence for each layer that it leaves out."""

    calibration: Calibration
    report: Report
    notes: tuple[str, ...]


def measure_calibration(
    session: Session, batches: Batches, layers: Sequence[str] = (), exclude: Sequence[str] = ()
) -> MeasuredCalibration:
    """Measure the calibration statistics of a loaded model; some of its layers may be replaced already."""
    recorder = Recorder(session.loaded.model, layers=layers, exclude=exclude)
    for capture in recorder.captures:
        capture.observers.append(RowScales())  # The kind "frozen" needs them.
    report = session.measure(recorder, batches)
    measured: dict[str, Statistics] = {}
    notes = []
    for capture in recorder.captures:
        statistics, reason = Statistics.of(capture), obstacle(capture.norm)
        if statistics is None or reason is not None:
            notes.append(f"{capture.norm.name}: left as it is: {reason or 'it was never called'}")
        else:
            measured[capture.norm.name] = statistics
    if not measured:
        raise UsageError(f"no layer can be replaced ({notes[0]}); expected a LayerNorm or an RMSNorm")
    return MeasuredCalibration(Calibration(session.loaded.id, measured), report, tuple(notes))
