"""Reads saved results of any command back from JSON, or from a report with its moments."""

import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

from normscope.errors import ReportError
from normscope.escaping import printable, quoted
from normscope.results.base import Result
from normscope.results.batches import BatchReport
from normscope.results.compare import Comparison
from normscope.results.file_kinds import kind_of_file
from normscope.results.inspect import MOMENTS_SCHEMA, Report
from normscope.results.swap import SwapReport
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

R = TypeVar("R", bound=Result)


@overload
def read_report(path: str | os.PathLike[str]) -> Report:
    """Read a report."""


@overload
def read_report(path: str | os.PathLike[str], kind: type[R]) -> R:
    """Read a result of that kind."""


def read_report(path: str | os.PathLike[str], kind: type[Any] = Report) -> Any:
    """Read a report that `to_json`, `normscope inspect --json` or `normscope inspect --moments` wrote.

    `kind` is the class of another result, such as `normscope.Trajectory`, to read that. Raises ReportError
    when the file is missing, is not JSON, or is not such a result.
    """
    data = read_plain(path)
    try:
        return kind.from_dict(data)
    except ReportError as error:
        command = "normscope inspect --json" if kind is Report else "--json"
        raise ReportError(f"{quoted(path)}: {error}; write it again with {command}") from error


def read_plain(path: str | os.PathLike[str]) -> Any:
    """Read the plain JSON values of any result that normscope wrote; ReportError if they cannot be read."""
    try:
        return json.loads(_text(Path(path)), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or kind_of_file(Path(path)) or str(error)
        raise ReportError(
            f"cannot read {quoted(path)} as a report: {printable(reason)}; expected one "
            "that normscope wrote; check the path"
        ) from error


def _text(path: Path) -> str:
    """Return the JSON text of a result; a file with moments holds it as a tensor."""
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):  # /dev/zero has no end
        raise ValueError("it is a device")
    with path.open("rb") as stream:
        start = stream.read(9)
        # Safetensors begin with the length of their header in eight bytes; text has no such zeros.
        if start[5:] != b"\0\0\0{":
            return str(start + stream.read(), "utf-8")
    from safetensors import SafetensorError, safe_open  # Imported late: few reports carry moments.

    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("schema") != MOMENTS_SCHEMA:
                raise ValueError("it is safetensors without a report")
            return str(file.get_tensor("report").tobytes(), "utf-8")
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


Saved = Report | BatchReport | WhyReport | SwapReport | Comparison | Trajectory
_KINDS: dict[str, type[Saved]] = {kind.SCHEMA: kind for kind in get_args(Saved)}


def read_saved(path: str | os.PathLike[str]) -> Saved:
    """Read what inspect, batches, why, swap or compare wrote with --json, or inspect with --moments.

    Raises ReportError when the file is missing, is not JSON, or is not such a result.
    """
    data = read_plain(path)
    schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
    kind = _KINDS.get(schema) if isinstance(schema, str) else None
    if kind is None:
        raise ReportError(
            f"{quoted(path)}: its schema is {printable(repr(schema)[:200])}; expected a result of inspect, "
            "batches, why, swap or compare; write one with --json"
        )
    try:
        return kind.from_dict(data)
    except ReportError as error:
        raise ReportError(f"{quoted(path)}: {error}; write it again with --json") from error
