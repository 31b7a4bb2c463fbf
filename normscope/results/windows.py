"""Files of windows: the reports on steps of a training, as JSON Lines with one layer of one step a line."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from normscope.errors import ReportError
from normscope.escaping import quoted, reason
from normscope.results.atomic_write import write_whole
from normscope.results.base import Record
from normscope.results.inspect import LayerReport, Report
from normscope.results.json_codec import from_plain, to_plain

SPLITS = ("train", "eval")


@dataclass(frozen=True, eq=False)
class BNGap(Record):
    """How far a window's mean and sd per feature are from BatchNorm's running ones; NaN in the first."""

    mean: float
    variance: float


@dataclass(frozen=True)
class WindowLine:
    """One layer in the window of one step; `split` is "train", or "eval" for an evaluation after it."""

    step: int
    split: str
    layer: LayerReport
    bn_gap: BNGap


def append_window(
    path: str | os.PathLike[str], step: int, split: str, report: Report, gaps: dict[str, tuple[float, float]]
) -> None:
    """Add a window to a file, a line for each layer: `step`, `split`, `layer`, its report, and `bn_gap`."""
    lines = []
    for name, layer in report.layers.items():
        gap = {"bn_gap": to_plain(BNGap(*gaps[name]))} if name in gaps else {}
        line = {"step": step, "split": split, "layer": name, **to_plain(layer), **gap}
        lines.append(json.dumps(line, allow_nan=False) + "\n")
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write("".join(lines))
    except OSError as error:
        raise ReportError(f"cannot write {quoted(path)}: {reason(error)}; name another file") from error


def keep_windows(path: str | os.PathLike[str], last_step: int) -> None:
    """Remove the windows after `last_step` from a file, from which a resumed training goes on."""
    kept: list[str] = []
    if last_step:
        with suppress(FileNotFoundError), Path(path).open(encoding="utf-8") as stream:
            kept = [line for line in stream if _step_of(line) <= last_step]
    write_whole(path, kept)


def _step_of(line: str) -> float:
    """Return the step of a line, infinity for a line that was not written to its end."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def read_windows(path: str | os.PathLike[str]) -> Iterator[WindowLine]:
    """Yield the lines of a file of windows; ReportError names a line that is not one."""
    try:
        with Path(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                yield _window_line(line, f"{quoted(path)}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(
            f"cannot read {quoted(path)}: {reason(error)}; expected the file of NormCallback(save=...)"
        ) from error


def _window_line(line: str, where: str) -> WindowLine:
    try:
        data = json.loads(line)
        step, split = data["step"], data["split"]
        gap = data.get("bn_gap") or {"mean": None, "variance": None}
        if type(step) is not int or split not in SPLITS:
            raise ValueError("its step or its split")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReportError(
            f"{where} is not a layer of a window ({reason(error)}); expected what NormCallback(save=...) "
            "writes; check the path"
        ) from error
    layer = from_plain(LayerReport, data, where)
    return WindowLine(step, split, layer, from_plain(BNGap, gap, f"{where}.bn_gap"))
