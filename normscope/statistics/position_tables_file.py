"""The (position x feature) tables of a report in one safetensors file."""

import json
import os

import torch
from torch import Tensor

from normscope._version import __version__
from normscope.results.inspect import Report
from normscope.results.json_codec import to_plain
from normscope.statistics.layer_state import RunMoments
from normscope.statistics.moments_file import require_moments
from normscope.statistics.safetensors_file import save_tensors

_TENSORS_SCHEMA = "normscope.tensors/1"


def write_tensors(report: Report, path: str | os.PathLike[str]) -> None:
    """Write each layer's statistics per position and feature: those of BatchNorm over flattened sentences.

    For every layer that was called, three float64 tensors: `NAME/count` (T,), the number of rows at
    each position; `NAME/mean` and `NAME/variance` (T, D), NaN where there is none. Where late positions
    share bins a row is a bin, and `NAME/first` (T,) int64 has each one's first position. A layer without
    positions has all of its rows at 0. The header's metadata are strings: `schema`
    (normscope.tensors/1), `normscope`, and `model` and `run`, which are JSON.

    Raises ReportError when the report carries no moments, or `path` cannot be written.
    """
    run: RunMoments = require_moments(report, "the report")
    header = {
        "schema": _TENSORS_SCHEMA,
        "normscope": __version__,
        "model": json.dumps(to_plain(report.model), allow_nan=False),
        "run": json.dumps(to_plain(report.run), allow_nan=False),
    }
    tensors: dict[str, Tensor] = {}
    for name, state in run.layers.items():
        if state.moments is not None and name in report.layers:
            table, safe = state.moments.table.x, name.encode("utf-8", "backslashreplace").decode("utf-8")
            tensors[f"{safe}/count"] = table.count[:, 0].clone()
            tensors[f"{safe}/mean"] = table.known_mean()
            tensors[f"{safe}/variance"] = table.variance()
            stats = report.layers[name].position
            if stats is not None and stats.first is not None:
                tensors[f"{safe}/first"] = torch.from_numpy(stats.first)
    save_tensors(tensors, path, header)
