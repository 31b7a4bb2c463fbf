"""What a corpus says of each layer, taken in one run, kept in one file, and read back."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from normscope.errors import ReportError
from normscope.files import write_with
from normscope.printable import quoted, reason
from normscope.replacements import Statistics
from normscope.report import LayerReport, Report

CALIBRATION_SCHEMA = "normscope.calibration/1"
FILE = "normscope-calibration.safetensors"


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
        path = Path(folder) / FILE
        about = {
            "schema": CALIBRATION_SCHEMA,
            "model": self.model,
            "kind": self.kind or "",
            "replaced": json.dumps(self.replaced),
        }
        tensors = {
            f"{name}/{key}": value.contiguous()
            for name, known in self.layers.items()
            for key, value in known.known().items()
        }
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_with(path, lambda part: part.write_bytes(save(tensors, about)))
        except (OSError, ReportError) as error:
            got = f"cannot write to the folder {quoted(folder)} ({reason(error)})"
            raise ReportError(f"{got}; expected a folder that can be written; name another") from error
        return path


def read_calibration(folder: str | os.PathLike[str]) -> Calibration:
    """Read what `normscope swap --save` or `Calibration.save` wrote to a folder, or to a file.

    ReportError when there is none or it is not one.
    """
    path = Path(folder)
    path = path / FILE if path.is_dir() else path
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        got = f"cannot read a calibration from {quoted(folder)} ({reason(error)})"
        raise ReportError(f"{got}; expected what normscope swap --save wrote; check the path") from error
    if about.get("schema") != CALIBRATION_SCHEMA:
        got = f"{quoted(folder)} is not a calibration: schema is {about.get('schema')!r}"
        raise ReportError(f"{got}; expected {CALIBRATION_SCHEMA!r}")
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, _, key = name.rpartition("/")
        layers.setdefault(layer, {})[key] = value
    try:
        known = {name: Statistics(**values) for name, values in layers.items()}
        return Calibration(about["model"], known, about["kind"] or None, tuple(json.loads(about["replaced"])))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        got = f"{quoted(folder)} is a calibration with parts that are not ours"
        raise ReportError(f"{got}; expected what normscope swap --save wrote; save it anew") from error


def _of_layer(layer: LayerReport) -> Statistics | None:
    if layer.feature is None or layer.kind not in ("layernorm", "rmsnorm"):
        return None
    mean, variance = (torch.from_numpy(v.copy()) for v in (layer.feature.mean, layer.feature.variance))
    return Statistics(mean, variance)
