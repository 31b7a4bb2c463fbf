"""Interruption of a run or of writing: the first signal ends it in order, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from normscope.cli.signals import ENDING, NUMBERS, write_line
from normscope.engine.stop import Stop

BATCH, RESULT = "this batch is finished first", "what was found is written first"


class Asked:
    """A signal handler that asks the run to stop, and holds the exit code; `first` is done before the end."""

    def __init__(self, first: str, *, quiet: bool) -> None:
        self.stop, self.first, self._quiet = Stop(), first, quiet
        self.exit_code = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask the run to stop; the second time end it here."""
        if self.exit_code:
            ENDING(number, frame)
            return
        self.exit_code = ENDING.code = 128 + number
        if not self._quiet:
            write_line(f"interrupted: {self.first}; once more ends it at once")
        self.stop.ask()

    def end(self) -> None:
        """End the command with the signal's exit code, if one came."""
        if self.exit_code:
            raise typer.Exit(self.exit_code)


@contextmanager
def signals(first: str = BATCH, *, quiet: bool = False) -> Iterator[Asked]:
    """Handle signals by an orderly stop of the run while the context is open."""
    asked = Asked(first, quiet=quiet)
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Only the main thread may set handlers.
        return
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, asked)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def finishing() -> Iterator[None]:
    """Let a result be written before the first signal ends the command."""
    if isinstance(signal.getsignal(signal.SIGINT), Asked):
        yield  # what runs around it ends the command
        return
    with signals(RESULT) as asked:
        yield
    asked.end()
