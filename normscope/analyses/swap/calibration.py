"""Calibration statistics of each layer, and the file that keeps them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normscope.analyses.swap.replacement import Statistics
from normscope.results.inspect import LayerReport, Report
from normscope.statistics.safetensors_file import FileKind

FILE = FileKind(
    "normscope-calibration.safetensors", "normscope.calibration/1", "calibration", "normscope swap --save"
)


@dataclass(frozen=True)
class Calibration:
    """The statistics of a model's layers over a calibration corpus, by the layers' names.

    `model` is the id of the model; `kind` and `replaced` say how it was swapped where that is saved, too.
    """

    model: str
    layers: Mapping[str, Statistics]
    kind: str | None = None
    replaced: tuple[str, ...] = ()

    @classmethod
    def of_report(cls, report: Report) -> "Calibration":
        """Take what a report knows of its LayerNorms and RMSNorms: the mean and variance per feature."""
        layers = {name: _of_layer(layer) for name, layer in report.layers.items()}
        return cls(report.model.id, {name: known for name, known in layers.items() if known is not None})

    def with_layer(self, name: str, statistics: Statistics) -> "Calibration":
        """Return a copy with other statistics of one layer."""
        return replace(self, layers={**self.layers, name: statistics})

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it to a folder, made if need be, as one safetensors file; return the file.

        Its tensors are float64 and named by layer and statistic, `encoder.norm/mean`. ReportError when
        the folder cannot be written.
        """
        about = {"model": self.model, "kind": self.kind or "", "replaced": json.dumps(self.replaced)}
        tensors = {
            f"{name}/{key}": value
            for name, known in self.layers.items()
            for key, value in known.known().items()
        }
        return FILE.write(folder, tensors, about)


def read_calibration(folder: str | os.PathLike[str]) -> Calibration:
    """Read what `normscope swap --save` or `Calibration.save` wrote to a folder, or to a file.

    ReportError when there is none or it is not one.
    """
    return FILE.read(folder, _made)


def _made(tensors: dict[str, Tensor], about: dict[str, Any]) -> Calibration:
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, _, key = name.rpartition("/")
        layers.setdefault(layer, {})[key] = value
    known = {name: Statistics(**values) for name, values in layers.items()}
    return Calibration(about["model"], known, about["kind"] or None, tuple(json.loads(about["replaced"])))


def _of_layer(layer: LayerReport) -> Statistics | None:
    if layer.feature is None or layer.kind not in ("layernorm", "rmsnorm"):
        return None
    mean, variance = (torch.from_numpy(v.copy()) for v in (layer.feature.mean, layer.feature.variance))
    return Statistics(mean, variance)
