"""Checks of destinations before the work: none is an input, or the destination of another result."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from normscope.cli.output import Output
from normscope.errors import ReportError, UsageError
from normscope.escaping import quoted
from normscope.results.atomic_write import require_writable

# Beginnings of our own results, which may replace an older result in a folder that is read.
_OWN_BEGINNINGS = (b'"schema": "normscope.', b'"schema":"normscope.', b"layer,view,position,feature,")

PathsByOption = Mapping[str, Iterable[str | None]]


def checked_output(output: str | None, reads: PathsByOption, writes: PathsByOption | None = None) -> Output:
    """Return the destination of a command's data; ReportError or UsageError if it cannot be written.

    `reads` and `writes` are what the command reads, and what else it writes, by option or argument.
    """
    destination = Output(output)
    destination.check()
    _require_distinct({"--output": [destination.path_written], **(writes or {})}, reads)
    return destination


def require_folder(option: str, folder: str, names: Iterable[str]) -> None:
    """Raise ReportError or UsageError if files of these names cannot be written to a folder.

    The folder may not exist yet.
    """
    nearest = next((path for path in (Path(folder), *Path(folder).parents) if os.path.lexists(path)), Path())
    if not nearest.is_dir():
        raise ReportError(
            f"cannot write to the folder {quoted(folder)}: {quoted(nearest)} is not a folder; name another"
        )
    for name in names:
        if nearest == Path(folder):
            Output(str(nearest / name)).check_file(option)
        else:
            require_writable(nearest / name)


def _require_distinct(outputs: PathsByOption, inputs: PathsByOption) -> None:
    """Raise UsageError if an output is an input or another output, also by a link or a relative path.

    Both are paths, by the option or argument that names them. In a folder that is an input, an output may
    replace only a result of ours.
    """
    owners: dict[object, str] = {}
    sources = _pairs(inputs)
    for option, path in _pairs(outputs):
        identity = _identity(path)
        if identity is None:
            continue
        if owner := owners.get(identity):
            raise UsageError(
                f"{owner} and {option} are both {quoted(path)}; expected a file each; name another"
            )
        owners[identity] = option
        for source, source_path in sources:
            # An output that does not exist yet (its identity is a path) replaces nothing.
            if not isinstance(identity, Path) and (
                identity == _identity(source_path) or _is_input_in(source_path, path)
            ):
                raise UsageError(
                    f"{option} is {quoted(path)}, which is read for {source}; expected a file of its own; "
                    "name another"
                )


def _pairs(paths_by_option: PathsByOption) -> list[tuple[str, str]]:
    return [(name, path) for name, paths in paths_by_option.items() for path in paths if path]


def _identity(path: str) -> object:
    """Return what identifies a file or folder: its path if it does not exist; None for devices and pipes."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return Path(path).resolve()
    except (OSError, ValueError):  # the code that reads or writes it says why
        return None
    lasts = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return (status.st_dev, status.st_ino) if lasts else None


def _is_input_in(folder: str, path: str) -> bool:
    """Whether a path is a file in a folder and no result of ours; a link or its target in it counts, too."""
    try:
        inside = Path(folder).resolve()
        locations = (Path(path).resolve(), Path(path).parent.resolve() / Path(path).name)
        if not (inside.is_dir() and any(location.is_relative_to(inside) for location in locations)):
            return False
        with Path(path).open("rb") as stream:
            start = stream.read(4096)
    except (OSError, ValueError, RuntimeError):  # no path, or a link to itself
        return False
    return not any(beginning in start for beginning in _OWN_BEGINNINGS)
