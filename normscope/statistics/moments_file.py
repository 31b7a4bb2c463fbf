"""The moments file: a report with its moments, as safetensors, which `merge` reads.

The tensor `report` holds the bytes of the report's JSON. The tensors `i/...` hold the moments of layer i,
unchanged. The other facts of the run are JSON in the header.
"""

import json
import os
from collections.abc import Mapping, Sequence
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
from normscope.statistics.layer_state import RunMoments, Seen, seen_of, tensors_of
from normscope.statistics.safetensors_file import save_tensors


def write_moments(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a report with its moments to `path`, for `read_moments`, `merge` and `read_report`.

    Raises ReportError if the report carries no moments, or `path` cannot be written.
    """
    run: RunMoments = require_moments(report, "the report")
    layers = [to_plain(seen) for seen in run.layers.values()]
    facts = {"slots": run.slots, "shards": run.shards, "layers": layers}
    header = {
        "schema": MOMENTS_SCHEMA,
        "normscope": __version__,
        "model": report.model.id.encode("utf-8", "backslashreplace").decode("utf-8"),
        "facts": json.dumps(facts, allow_nan=False),
    }
    text = bytearray(report.to_json(), "utf-8")
    tensors = {"report": torch.frombuffer(text, dtype=torch.uint8)}
    for i, seen in enumerate(run.layers.values()):
        tensors.update((f"{i}/{name}", values) for name, values in tensors_of(seen).items())
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
            f"{quoted(path)}: {reason}; make it anew with normscope inspect --moments"
        ) from error


def require_moments(report: Report, what: str) -> RunMoments:
    """Return the moments that the report carries; if none, raise a ReportError that calls it `what`."""
    run = report.moments
    if isinstance(run, RunMoments):
        return run
    raise ReportError(
        f"{what} carries no moments; expected one made with moments=True; make it anew with that"
    )


def _run_moments(report: Report, facts: Any, tensors: Mapping[str, Tensor]) -> RunMoments:
    listed = from_plain(tuple[Seen, ...], facts["layers"], "facts.layers")
    check_facts(listed)
    if len(listed) != len(report.layers):
        raise ReportError(f"moments of {counted(len(listed), 'layer')}; expected {len(report.layers)}")
    layers = {}
    for i, (layer, seen) in enumerate(zip(report.layers.values(), listed, strict=True)):
        own = {name.partition("/")[2]: v for name, v in tensors.items() if name.startswith(f"{i}/")}
        layers[layer.name] = seen_of(seen, own, layer.features)
    shards = from_plain(tuple[str, ...], facts.get("shards", []), "facts.shards")
    return RunMoments(layers, from_plain(int, facts["slots"], "facts.slots"), shards)


def check_facts(listed: Sequence[Seen]) -> None:
    """Raise ReportError for impossible numbers: a negative count, or a sum of squares over no elements."""
    for i, seen in enumerate(listed):
        numbers = {name: value for name, value in vars(seen).items() if isinstance(value, int | float)}
        below = next((name for name, value in numbers.items() if value < 0), None)
        if below or (seen.output_square and not seen.output_size):
            raise ReportError(
                f"facts.layers[{i}].{below or 'output_size'} is too small; expected what was seen"
            )
