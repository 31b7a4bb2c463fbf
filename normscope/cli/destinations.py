"""Checks where results go before the work: no destination is an input or another result's."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from normscope.cli.output import Output
from normscope.errors import ReportError, UsageError
from normscope.escaping import quoted
from normscope.results.atomic_write import require_writable

# How a result of ours begins, which may be replaced where it lies beside what is read.
_OURS = (b'"schema": "normscope.', b'"schema":"normscope.', b"layer,view,position,feature,")

Places = Mapping[str, Iterable[str | None]]


def checked(output: str | None, reads: Places, writes: Places | None = None) -> Output:
    """Return where a command's data goes; ReportError or UsageError where that cannot be written to.

    `reads` and `writes` are what the command reads, and what else it writes, by option or argument.
    """
    place = Output(output)
    place.check()
    _require_apart({"--output": [place.path_written], **(writes or {})}, reads)
    return place


def require_folder(option: str, folder: str, names: Iterable[str]) -> None:
    """Raise ReportError or UsageError where files of these names could not be written to a folder, made
    if need be.
    """
    nearest = next((path for path in (Path(folder), *Path(folder).parents) if os.path.lexists(path)), Path())
    if not nearest.is_dir():
        raise ReportError(
            f"cannot write to the folder {quoted(folder)}: {quoted(nearest)} is no folder; name another"
        )
    for name in names:
        if nearest == Path(folder):
            Output(str(nearest / name)).check_file(option)
        else:
            require_writable(nearest / name)


def _require_apart(outputs: Places, inputs: Places) -> None:
    """Raise UsageError where an output is an input or another output, by whatever link or relative path.

    Both are paths, by the option or argument that names them. Of an input that is a folder, no file may
    be replaced but a result of ours.
    """
    taken: dict[object, str] = {}
    read = _given(inputs)
    for option, path in _given(outputs):
        known = _identity(path)
        if known is None:
            continue
        if other := taken.get(known):
            raise UsageError(
                f"{other} and {option} are both {quoted(path)}; expected a file each; name another"
            )
        taken[known] = option
        for source, place in read:
            # An output that does not exist yet (its identity is a path) replaces nothing.
            if not isinstance(known, Path) and (known == _identity(place) or _is_part(path, place)):
                raise UsageError(
                    f"{option} is {quoted(path)}, which is read for {source}; expected a file of its own; "
                    "name another"
                )


def _given(places: Places) -> list[tuple[str, str]]:
    return [(name, path) for name, paths in places.items() for path in paths if path]


def _identity(path: str) -> object:
    """What a file or folder is known by, its path where there is none yet; None for devices and pipes."""
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return Path(path).resolve()
    except (OSError, ValueError):  # told better by what reads or writes it
        return None
    is_kept = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return (found.st_dev, found.st_ino) if is_kept else None


def _is_part(path: str, folder: str) -> bool:
    """Whether a path is a file in a folder and no result of ours; a link counts where it lies and leads."""
    try:
        inside = Path(folder).resolve()
        places = (Path(path).resolve(), Path(path).parent.resolve() / Path(path).name)
        if not (inside.is_dir() and any(place.is_relative_to(inside) for place in places)):
            return False
        with Path(path).open("rb") as stream:
            start = stream.read(4096)
    except (OSError, ValueError, RuntimeError):  # no path, or a link to itself
        return False
    return not any(sign in start for sign in _OURS)
