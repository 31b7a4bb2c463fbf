"""Atomic writes: a file is written completely or not at all."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from normscope.errors import ReportError

try:
    import fcntl
except ImportError:  # Windows has no such locks, so folders that were left behind stay.
    fcntl = None  # type: ignore[assignment]


def write_json(data: Any, path: str | os.PathLike[str] | None, indent: int | None) -> str:
    """Return `data` as strict JSON text; if a path is given, write it there completely or not at all."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent) + "\n"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate becomes an escape
    if path is not None:
        write_whole(path, text)
    return text


def write_whole(path: str | os.PathLike[str], text: str | Iterable[str]) -> None:
    """Write `text`, or its pieces one by one, to `path` as UTF-8: to a temporary file that is then renamed.

    A reader never sees half a file, and a failure leaves the old file unchanged. Devices and named pipes
    (`/dev/stdout`) are written to directly, since they cannot be replaced. Raises ReportError if `path`
    cannot be written.
    """

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8") as stream:
            stream.writelines([text] if isinstance(text, str) else text)

    _write(path, write)


def write_with(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path, then rename the file that it wrote to `path`.

    Apart from that it is like `write_whole`, but ReportError is also raised for devices and pipes.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ReportError(f"cannot write {str(path)!r}: it is not a file; name a file")
    _write(path, write)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise ReportError if `write_whole` and `write_with` could not write to `path`; for use before a run."""

    def probe(target: Path) -> None:
        if not target.exists():
            target.write_bytes(b"\n")

    _write(path, probe, keep=False)


def _write(path: str | os.PathLike[str], write: Callable[[Path], object], *, keep: bool = True) -> None:
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            write(target)
            return
        target = _resolved(target)
        with _temporary_folder(target) as folder:
            temporary = folder / target.name
            write(temporary)
            if keep:
                _move(temporary, target)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(f"cannot write {str(path)!r}: {reason}; name a writable file") from error


def _resolved(path: Path) -> Path:
    """Follow symbolic links, to replace their target; a loop is a RuntimeError before Python 3.13."""
    target = path.resolve()
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _move(temporary: Path, target: Path) -> None:
    """Rename a file to `target`; a target that cannot be replaced, such as a mounted file, is overwritten."""
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.chmod(_mode_for(target))
    try:
        temporary.replace(target)
    except OSError:
        if not target.is_file():
            raise
        shutil.copyfile(temporary, target)


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder on the same file system, after the folders of killed runs are removed."""
    stem = f".{target.name[:50]}."
    if fcntl:
        _remove_abandoned(target.parent, stem)
    folder = target.with_name(f"{stem}{os.urandom(4).hex()}.part")
    lock = None
    try:
        lock = _create_and_lock(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _create_and_lock(folder: Path) -> int | None:
    """Create a folder and lock it; try again if another run removes it before it is locked."""
    while True:
        folder.mkdir(mode=0o700)
        if not fcntl:
            return None
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return lock
            os.close(lock)


def _remove_abandoned(parent: Path, stem: str) -> None:
    """Remove the folders of killed runs; a run that still writes holds the lock of its folder."""
    with contextlib.suppress(OSError):
        folders = [path for path in parent.iterdir() if path.name.startswith(stem)]
        for folder in folders:
            if re.fullmatch(r"[0-9a-f]{8}\.part", folder.name[len(stem) :]):
                lock = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _mode_for(target: Path) -> int:
    """Return the permissions that `open` would give: those of the old file, or else those by the umask."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
