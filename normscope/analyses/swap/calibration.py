"""Calibration statistics of each layer: measured over texts, written to a file and read from it."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import BATCHNORM, DYT, SQUASHING, require_kind
from normscope.analyses.swap.replacement import obstacle
from normscope.analyses.swap.squashing import Squash, fit_layers
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
from normscope.results.swap import DerfFit, DytFit
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
    kind: str = BATCHNORM,
    progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Measure over these texts the statistics that `swapped` needs for any kind of replacement.

    The `kind` "dyt" or "derf" also fits that: only then does the result have what it needs. The fit runs the
    texts again, three times for "dyt" and four times for "derf", so that they stay in memory as token ids.
    All other arguments are as for `inspect`. The result has no statistics of layers that cannot be replaced.
    Raises what `inspect` raises, and UsageError for another kind and when no layer can be replaced.
    """
    require_kind(kind)
    inputs = Inputs(texts)
    session = Session.open(model, Clock(progress), loading, tokenizer)
    batches = text_batches(session.loaded, inputs.texts or (), batching, keep=kind in SQUASHING)
    return measure_calibration(session, batches, layers, exclude, kind=kind).calibration


@dataclass(frozen=True)
class MeasuredCalibration:
    """A calibration, the report of its run, a sentence for each layer that it leaves out, and its fits."""

    calibration: Calibration
    report: Report
    notes: tuple[str, ...]
    squashes: Mapping[str, Squash]

    def fits(self, name: str, kind: str) -> dict[str, Any]:
        """Return the result of a layer's fit by its name in `LayerSwap`; empty for kinds without a fit."""
        if name not in self.squashes:
            return {}
        squash, line = self.squashes[name], self.report.layers[name].affine_fit
        line_r2 = math.nan if line is None else line.r2
        numbers = (squash.alpha, squash.r2, line_r2, squash.saturated)
        return {"dyt_fit": DytFit(*numbers)} if kind == DYT else {"derf_fit": DerfFit(*numbers, squash.shift)}


def measure_calibration(
    session: Session,
    batches: Batches,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    kind: str = BATCHNORM,
) -> MeasuredCalibration:
    """Measure the calibration statistics of a loaded model; some of its layers may be replaced already.

    For a `kind` of SQUASHING, which is also fitted, `batches` must be kept.
    """
    recorder = Recorder(session.loaded.model, layers=layers, exclude=exclude)
    for capture in recorder.captures:
        capture.observers.append(RowScales())  # The kind "frozen" needs them.
    report = session.measure(recorder, batches)
    session.clock.finish(report.run.texts, report.run.tokens)
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
    squashes = fit_layers(session, batches, kind, measured) if kind in SQUASHING else {}
    measured |= {name: squash.added_to(measured[name], kind) for name, squash in squashes.items()}
    return MeasuredCalibration(Calibration(session.loaded.id, measured), report, tuple(notes), squashes)
