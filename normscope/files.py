"""A file is written whole or not at all."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from normscope.errors import ReportError


def write_json(data: Any, path: str | os.PathLike[str] | None, indent: int | None) -> str:
    """Return `data` as strict JSON text and, given a path, write it there whole or not at all."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a UTF-16 pair stays an escape
    if path is not None:
        write_whole(path, text)
    return text


def write_whole(path: str | os.PathLike[str], text: str | Iterable[str]) -> None:
    """Write `text`, or its pieces one by one, to `path` as UTF-8: beside it first, then renamed over it.

    A reader never sees half a file, and a failure leaves what was there before. Devices and
    named pipes (`/dev/stdout`) are written to directly, since they cannot be renamed over.
    Raises ReportError when the place cannot be written.
    """

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines([text] if isinstance(text, str) else text)

    _write(path, write)


def write_with(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write` with a name beside `path`, then rename what it wrote over it; else as `write_whole`.

    Raises ReportError for devices and pipes, too: what `write` makes needs a file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ReportError(f"cannot write {str(path)!r}: it is no file; name a file")
    _write(path, write)


def _write(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            write(target)
        else:
            _replace(_resolved(target), write)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(f"cannot write {str(path)!r}: {reason}; name a writable file") from error


def _resolved(path: Path) -> Path:
    """Follow links, so that what they lead to is replaced; before Python 3.13 a loop is a RuntimeError."""
    target = path.resolve()
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".part")
    try:
        os.close(handle)
        write(Path(name))
        with Path(name).open("rb+") as stream:
            os.fsync(stream.fileno())
        Path(name).chmod(_mode_for(target))
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _mode_for(target: Path) -> int:
    """The permissions an ordinary `open` would have left: the old file's, or the umask's."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
