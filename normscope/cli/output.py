"""Output: data to standard output or a file, messages to standard error."""

import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, TYPE_CHECKING, Any, Protocol

from normscope.cli.interruption import finishing
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted

if TYPE_CHECKING:
    from normscope.render.terminal import Screen

_FEW_WARNINGS = 5
LONG_READ = 5_000_000  # bytes of a report that take a second or more
_STANDARD_OUTPUT = "/dev/stdout"


class Writable(Protocol):
    """The part of a command's result that writing needs."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""

    def to_json(self) -> str:
        """Return it as strict JSON text."""


@dataclass(frozen=True)
class Output:
    """The place for a command's data: a file, or standard output when `path` is None or "-"."""

    path: str | None

    @property
    def path_written(self) -> str:
        """The path of the file, or the path of standard output."""
        return self.path if self.path is not None and self.is_file else _STANDARD_OUTPUT

    @property
    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.path not in (None, "-")

    @property
    def is_terminal(self) -> bool:
        """Whether it is standard output, and that is read by a person."""
        return not self.is_file and sys.stdout is not None and sys.stdout.isatty()

    def check(self) -> None:
        """Raise ReportError if the place can be seen not to be writable: before the work, not after."""
        if self.path is None or not self.is_file:
            if sys.stdout is None:
                raise ReportError("standard output is closed; expected it open; name a file with --output")
            return
        try:
            refusal = _refusal(self.path) if self.path else "it is empty; name a file"
        except (OSError, ValueError, RuntimeError) as error:  # a link to itself, before Python 3.13
            refusal = f"{getattr(error, 'strerror', None) or error}; name another file"
        if refusal:
            raise ReportError(f"cannot write {quoted(self.path)}: {refusal}")
        from normscope.results.atomic_write import require_writable

        require_writable(self.path)

    def check_file(self, option: str) -> None:
        """Do so for what `option` names, if it was given: that must be a file."""
        if self.path is None:
            return
        if self.path == "-" or (self.path and Path(self.path).exists() and not Path(self.path).is_file()):
            raise UsageError(f"{option} is {quoted(self.path)}; expected a file's name; name a file")
        self.check()

    def write(self, text: str | Iterable[str]) -> None:
        """Write `text`, or its pieces one by one: to a file whole or not at all, or to standard output.

        What standard output cannot encode is written as an escape rather than not at all.
        Raises ReportError when the place cannot be written, BrokenPipeError when nobody reads it.
        """
        if self.path is not None and self.is_file:
            from normscope.results.atomic_write import write_whole

            with finishing():
                write_whole(self.path, text)
            return
        try:
            for piece in [text] if isinstance(text, str) else text:
                _print(piece.encode(_encoding(), "backslashreplace"))
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            silence()
            raise ReportError(
                f"cannot write to standard output: {error.strerror}; free some space"
            ) from error

    def json(self, result: Writable) -> str:
        """Return a result as JSON that the place can encode, and a terminal shows and does not obey.

        Both forms read as the same values.
        """
        text = result.to_json()
        shown = not self.is_terminal or text.removesuffix("\n").isprintable()
        if self.is_file or (shown and _can_encode(text)):
            return text
        import json

        return json.dumps(result.to_dict(), allow_nan=False) + "\n"

    def screen(self) -> "Screen":
        """What can be shown there; a file, or a pipe, is 80 columns wide unless COLUMNS says else."""
        from normscope.render.terminal import Screen

        if self.is_file:
            return Screen(_columns(80))
        width = _terminal_columns() if self.is_terminal else _columns(80)
        colour = self.is_terminal and wants_colour()
        return Screen(width, colour, _can_encode(_drawing_characters()), colour and _has_palette())


@contextmanager
def data_alone() -> Iterator[None]:
    """Send to standard error what the code of a model prints, in Python or below it, while the model runs."""
    with ExitStack() as undone:
        others = sys.stderr or undone.enter_context(Path(os.devnull).open("w"))
        try:
            sys.stdout.flush()
            kept = os.dup(sys.stdout.fileno())
            undone.callback(os.close, kept)
            undone.callback(os.dup2, kept, sys.stdout.fileno())
            os.dup2(others.fileno(), sys.stdout.fileno())
            undone.callback(_flush, sys.stdout)
        except (AttributeError, OSError, ValueError):
            pass  # closed, or in memory: then there is no descriptor to speak of
        undone.enter_context(redirect_stdout(others))
        yield


def _flush(stream: IO[str]) -> None:
    """Flush a stream of Python's, and those of C."""
    import ctypes

    stream.flush()
    with suppress(OSError, TypeError, AttributeError):  # where the C library is not found
        ctypes.CDLL(None).fflush(None)


def _print(data: bytes) -> None:
    """Write to standard output all of what its encoding made of a text."""
    raw = getattr(sys.stdout, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        sys.stdout.write(data.decode(_encoding()))
        return
    # With PYTHONUNBUFFERED, Python leaves out what a disk that fills up, say, does not take at once.
    sys.stdout.flush()
    left = memoryview(data.replace(b"\n", os.linesep.encode()))
    while left:
        left = left[raw.write(left) or 0 :]


def _refusal(path: str) -> str | None:
    target = Path(path)
    folder = target.resolve().parent
    if target.is_dir() or path.endswith(("/", os.sep)):
        return "it is a folder; name a file in it"
    if not folder.is_dir():
        return f"there is no folder {quoted(folder)}; create it"
    if not os.access(target if target.exists() else folder, os.W_OK):
        return "no permission; name a writable place"
    return None


def wants_colour() -> bool:
    """Whether the user's terminal and NO_COLOR allow colour."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _has_palette() -> bool:
    """Whether the terminal says that it has 256 colours or more."""
    more = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    return more or "256color" in os.environ.get("TERM", "")


def say(line: str) -> None:
    """Write one line to standard error; whatever is in it stays text on one line."""
    if sys.stderr is not None:
        print(printable(line), file=sys.stderr, flush=True)


def announce(paths: Iterable[str]) -> None:
    """Say at a terminal which files take a while to read."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    for path in paths:
        with suppress(OSError, ValueError):  # what cannot be read is told by its reader
            size = Path(path).stat().st_size
            if size > LONG_READ:
                say(f"reading {quoted(path)}, {size / 1e6:,.0f} MB")


@contextmanager
def patience(line: str, seconds: float, *, quiet: bool = False) -> Iterator[None]:
    """Write `line` to standard error if the context is still open after `seconds`."""
    waiting = Timer(seconds, say, [line])
    waiting.daemon = True
    if not quiet:
        waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


def warn(warnings: tuple[str, ...], *, verbose: bool) -> None:
    """Write a report's warnings: only the first few unless `verbose`."""
    shown = warnings if verbose or len(warnings) <= _FEW_WARNINGS else warnings[:_FEW_WARNINGS]
    for warning in shown:
        say(f"warning: {warning}")
    if len(shown) < len(warnings):
        say(f"warning: {len(warnings) - len(shown)} more; --verbose shows them all")


def _terminal_columns() -> int:
    # A terminal that does not know its size says 0, which Python passes on before 3.11.
    return shutil.get_terminal_size((80, 24)).columns or 80


def _columns(otherwise: int) -> int:
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdecimal() and int(given) else otherwise


def silence() -> None:
    """Point streams that fail at nothing, so that the interpreter's own last flush does not complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _drawing_characters() -> str:
    from normscope.render.glyphs import UNICODE

    return "".join(vars(UNICODE).values())


def _can_encode(text: str) -> bool:
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
