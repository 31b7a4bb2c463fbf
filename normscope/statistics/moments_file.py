"""The moments file: a report with its moments, as safetensors, which `merge` reads.

The tensor `report` holds the bytes of the report's JSON. The tensors `i/...` hold the moments of layer i,
unchanged. The other facts of the run are JSON in the header.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from normscope._version import __version__
from normscope.errors import ReportError
from normscope.escaping import counted, printable, quoted
from normscope.results.inspect import MOMENTS_SCHEMA, Report
from normscope.results.json_codec import from_plain, to_plain
from normscope.results.reading import read_report
from normscope.statistics.digests import KEY, digest_of, signed
from normscope.statistics.layer_state import LayerState, RunMoments, load_state_dicts, state_dicts
from normscope.statistics.safetensors_file import save_tensors


def write_moments(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a report with its moments to `path`, for `read_moments`, `merge` and `read_report`.

    Raises ReportError if the report carries no moments, or `path` cannot be written.
    """
    run: RunMoments = require_moments(report, "the report")
    facts = {"slots": run.slots, "shards": run.shards, "layers": to_plain([*run.layers.values()])}
    header = {
        "schema": MOMENTS_SCHEMA,
        "normscope": __version__,
        "model": report.model.id.encode("utf-8", "backslashreplace").decode("utf-8"),
        "facts": json.dumps(facts, allow_nan=False),
    }
    text = bytearray(report.to_json(), "utf-8")
    tensors = {"report": torch.frombuffer(text, dtype=torch.uint8), **state_dicts(run.layers.values())}
    save_tensors(tensors, path, signed(tensors, header))


def read_moments(path: str | os.PathLike[str]) -> Report:
    """Read a report with the moments that `write_moments` or `normscope inspect --moments` wrote.

    Raises ReportError if the file is missing, holds no such report or no moments, or was changed.
    """
    report = read_report(path)
    try:
        with safe_open(Path(path), framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        moments = _run_moments(report, json.loads(header["facts"]), tensors)
        moments.digest = digest_of(tensors, header)
        # Files of earlier versions have no digest.
        if header.get(KEY, moments.digest) != moments.digest:
            raise ReportError("it was changed after it was written")
        return replace(report, moments=moments)
    except (SafetensorError, OSError) as error:
        raise ReportError(
            f"{quoted(path)} carries no moments; expected a report written with --moments; "
            "run normscope inspect --moments PATH"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError, ReportError) as error:
        reason = printable(str(error)) if isinstance(error, ReportError) else "its header is not ours"
        raise ReportError(
            f"{quoted(path)}: {reason}; write it again with normscope inspect --moments"
        ) from error


def require_moments(report: Report, what: str) -> RunMoments:
    """Return the moments that the report carries; if none, raise a ReportError that calls it `what`."""
    run = report.moments
    if isinstance(run, RunMoments):
        return run
    raise ReportError(
        f"{what} carries no moments; expected one made with moments=True; make it again with that"
    )


def _run_moments(report: Report, facts: Any, tensors: Mapping[str, Tensor]) -> RunMoments:
    states = from_plain(tuple[LayerState, ...], facts["layers"], "facts.layers")
    layers = report.layers.values()
    if len(states) != len(layers):
        raise ReportError(f"moments of {counted(len(states), 'layer')}; expected {len(layers)}")
    load_state_dicts(states, tensors, [layer.features for layer in layers])
    shards = from_plain(tuple[str, ...], facts.get("shards", []), "facts.shards")
    slots = from_plain(int, facts["slots"], "facts.slots")
    return RunMoments({layer.name: state for layer, state in zip(layers, states, strict=True)}, slots, shards)
