"""Output: data to standard output or a file, messages to standard error."""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import IO, TYPE_CHECKING, Any, Protocol

from normscope.cli.interruption import finish_writing
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
        """Whether it is standard output, and that is a terminal."""
        return not self.is_file and sys.stdout is not None and sys.stdout.isatty()

    def check(self) -> None:
        """Raise ReportError if it is clearly not writable, before any work is done."""
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
        """Do the same for the file of `option`, if one was given: it must be a file."""
        if self.path is None:
            return
        if self.path == "-" or (self.path and Path(self.path).exists() and not Path(self.path).is_file()):
            raise UsageError(f"{option} is {quoted(self.path)}; expected a file's name; name a file")
        self.check()

    def write(self, text: str | Iterable[str]) -> None:
        """Write `text`, or its pieces one by one, to standard output, or to a file completely or not at all.

        A character that standard output cannot encode is written as an escape.
        Raises ReportError if the destination cannot be written, BrokenPipeError if nobody reads it.
        """
        if self.path is not None and self.is_file:
            from normscope.results.atomic_write import write_whole

            with finish_writing():
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
        """Return a result as JSON that the destination can encode, without control characters at a terminal.

        The escaped form reads as the same values.
        """
        text = result.to_json()
        safe = not self.is_terminal or text.removesuffix("\n").isprintable()
        if self.is_file or (safe and _can_encode(text)):
            return text
        import json

        return json.dumps(result.to_dict(), allow_nan=False) + "\n"

    def text(
        self,
        result: Writable,
        format: str,
        table: Callable[..., str],
        markdown: Callable[..., str],
        **options: Any,
    ) -> str:
        """Return a result as JSON, or as `table` or `markdown` renders it with these options."""
        if format == "json":
            return self.json(result)
        if format == "markdown":
            return markdown(result, **options)
        return table(result, screen=self.screen(), **options)

    def screen(self) -> "Screen":
        """Return the width, colours and characters there; a file or pipe has COLUMNS or 80 columns."""
        from normscope.render.glyphs import UNICODE
        from normscope.render.terminal import Screen

        if self.is_file:
            return Screen(_columns())
        # A terminal of unknown size reports 0, which Python before 3.11 returns unchanged.
        width = shutil.get_terminal_size().columns or 80 if self.is_terminal else _columns()
        colour = self.is_terminal and wants_colour()
        return Screen(width, colour, _can_encode("".join(vars(UNICODE).values())), colour and _has_palette())


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """Send to standard error what a model's code prints, in Python or in C, while the context is open."""
    with ExitStack() as stack:
        messages = sys.stderr or stack.enter_context(Path(os.devnull).open("w"))
        try:
            sys.stdout.flush()
            saved = os.dup(sys.stdout.fileno())
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, sys.stdout.fileno())
            os.dup2(messages.fileno(), sys.stdout.fileno())
            stack.callback(_flush, sys.stdout)
        except (AttributeError, OSError, ValueError):
            pass  # closed, or in memory: there is no descriptor
        stack.enter_context(redirect_stdout(messages))
        yield


def _flush(stream: IO[str]) -> None:
    """Flush a stream of Python, and all streams of C."""
    import ctypes

    stream.flush()
    with suppress(OSError, TypeError, AttributeError):  # where the C library is not found
        ctypes.CDLL(None).fflush(None)


def _print(data: bytes) -> None:
    """Write all bytes of an encoded text to standard output."""
    raw = getattr(sys.stdout, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        sys.stdout.write(data.decode(_encoding()))
        return
    # With PYTHONUNBUFFERED, a write may take only a part of the data, and Python drops the rest.
    sys.stdout.flush()
    rest = memoryview(data.replace(b"\n", os.linesep.encode()))
    while rest:
        rest = rest[raw.write(rest) or 0 :]


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
    true_colour = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    return true_colour or "256color" in os.environ.get("TERM", "")


def say(line: str) -> None:
    """Write one line to standard error; control characters in it are escaped."""
    if sys.stderr is not None:
        print(printable(line), file=sys.stderr, flush=True)


def announce(paths: Iterable[str]) -> None:
    """Name at a terminal the files that take long to read."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    for path in paths:
        with suppress(OSError, ValueError):  # the code that reads the file says why it cannot
            size = Path(path).stat().st_size
            if size > LONG_READ:
                say(f"reading {quoted(path)}, {size / 1e6:,.0f} MB")


@contextmanager
def notice_if_slow(line: str, seconds: float, *, quiet: bool = False) -> Iterator[None]:
    """Write `line` to standard error if the context is still open after `seconds`."""
    timer = Timer(seconds, say, [line])
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def warn(warnings: tuple[str, ...], *, verbose: bool) -> None:
    """Write a report's warnings: only the first few unless `verbose`."""
    shown = warnings if verbose or len(warnings) <= _FEW_WARNINGS else warnings[:_FEW_WARNINGS]
    for warning in shown:
        say(f"warning: {warning}")
    if len(shown) < len(warnings):
        say(f"warning: {len(warnings) - len(shown)} more; --verbose shows them all")


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else 80


def silence() -> None:
    """Point streams that fail at the null device, so that the interpreter's last flush does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)


def _can_encode(text: str) -> bool:
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
