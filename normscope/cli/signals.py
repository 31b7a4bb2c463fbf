"""Signals that end the command: Ctrl-C, SIGTERM and SIGHUP, with 130, 143 or 129 and one line.

Nothing heavy is imported here, so that the signals are handled before all else is.
"""

import atexit
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

NUMBERS = tuple(
    number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
)
_INTERRUPTED = 128 + signal.SIGINT
# Signals within this many seconds count as one: a key is held down, or a shell signals all processes.
PATIENCE = 1.0


class _Ending:
    """What a signal does: while `raises` it raises KeyboardInterrupt, else it ends the process here.

    `code` is the exit code that the first signal asks for, 0 without any.
    """

    def __init__(self) -> None:
        self.code, self.raises = 0, False
        self._told, self._last = False, -PATIENCE

    def begin(self) -> None:
        """Let KeyboardInterrupt be raised from now on: what begins here catches it."""
        self.code, self._told, self.raises = 0, False, True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.code = self.code or 128 + number
        now, last = time.monotonic(), self._last
        if (self._told or self.raises) and now - last < PATIENCE:
            return
        self._last = now
        if not self.raises or _imports(frame):
            self.end()
        raise KeyboardInterrupt

    def tell(self) -> int:
        """Write once that the command was interrupted; return the exit code."""
        if not self._told:
            self._told, self._last = True, time.monotonic()
            write_line("interrupted")
        return self.code or _INTERRUPTED

    def end(self) -> None:
        """End the process without the interpreter's teardown, in which nothing can be caught."""
        os._exit(self.tell())

    def lost(self, unraisable: Any) -> None:
        """End the process where the exception was raised in a callback of the interpreter, which drops it."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self.end()
        sys.__unraisablehook__(unraisable)


ENDING = _Ending()


def install() -> None:
    """Handle the signals until the process ends, but those that it is told to ignore, as by nohup."""
    found = [number for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
    if any(signal.getsignal(number) is ENDING for number in found):
        return
    for number in found:
        signal.signal(number, ENDING)
    sys.unraisablehook = ENDING.lost
    atexit.register(_ignore)  # the first one is called last


def _ignore() -> None:
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is under way: modules that an exception leaves half made fail later, and say more."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def write_line(line: str) -> None:
    """Write a line to standard error, from within a handler, too, where a print may be under way."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except RuntimeError:  # a reentrant call
            os.write(2, f"{line}\n".encode())
        except OSError:
            pass
