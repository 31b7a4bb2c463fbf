"""Signals that end the command: Ctrl-C, SIGTERM and SIGHUP, with 130, 143 or 129 and one line.

Nothing heavy is imported here, so that the handlers are set before slow imports begin.
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
# Signals within so many seconds count as one: a key is held down, or a shell signals all processes.
_REPEAT_SECONDS = 1.0


class _Ending:
    """A signal handler that raises KeyboardInterrupt while `raises` is set, and else ends the process.

    `code` is the exit code of the first signal, 0 without any.
    """

    def __init__(self) -> None:
        self.code, self.raises = 0, False
        self._announced, self._last = False, -_REPEAT_SECONDS

    def begin(self) -> None:
        """Raise KeyboardInterrupt from now on, for a caller that catches it."""
        self.code, self._announced, self.raises = 0, False, True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.code = self.code or 128 + number
        now, last = time.monotonic(), self._last
        if (self._announced or self.raises) and now - last < _REPEAT_SECONDS:
            return
        self._last = now
        if not self.raises or _is_importing(frame):
            self.end()
        raise KeyboardInterrupt

    def announce(self) -> int:
        """Write once that the command was interrupted; return the exit code."""
        if not self._announced:
            self._announced, self._last = True, time.monotonic()
            write_line("interrupted")
        return self.code or _INTERRUPTED

    def end(self) -> None:
        """End the process without the interpreter's teardown, in which nothing can be caught."""
        os._exit(self.announce())

    def handle_unraisable(self, unraisable: Any) -> None:
        """End the process if KeyboardInterrupt was raised in a callback, where the interpreter drops it."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self.end()
        sys.__unraisablehook__(unraisable)


ENDING = _Ending()


def install() -> None:
    """Handle the signals until the process ends, except those that it ignores, as under nohup."""
    handled = [number for number in NUMBERS if signal.getsignal(number) is not signal.SIG_IGN]
    if any(signal.getsignal(number) is ENDING for number in handled):
        return
    for number in handled:
        signal.signal(number, ENDING)
    sys.unraisablehook = ENDING.handle_unraisable
    atexit.register(_ignore)  # the function that is registered first is called last


def _ignore() -> None:
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether an import is in progress: an exception would leave modules half initialised, to fail later."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def write_line(line: str) -> None:
    """Write a line to standard error, also from within a handler that interrupts a print."""
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except RuntimeError:  # a reentrant call
            os.write(2, f"{line}\n".encode())
        except OSError:
            pass
