"""Interruption of a run, or of writing: the first signal ends it in order, the second one at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from normscope.cli.signals import ENDING, NUMBERS, write_line
from normscope.engine.stop import Stop

BATCH, RESULT = "this batch is finished first", "the result is written first"


class StopRequest:
    """A signal handler that asks the run to stop, and holds the exit code.

    `finishes` tells the user what is completed before the command ends.
    """

    def __init__(self, finishes: str, *, quiet: bool) -> None:
        self.stop, self.finishes, self._quiet = Stop(), finishes, quiet
        self.exit_code = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask the run to stop; the second time end the process."""
        if self.exit_code:
            ENDING(number, frame)
            return
        self.exit_code = ENDING.code = 128 + number
        if not self._quiet:
            write_line(f"interrupted: {self.finishes}; once more ends it at once")
        self.stop.ask()

    def end(self) -> None:
        """End the command with the signal's exit code, if one came."""
        if self.exit_code:
            raise typer.Exit(self.exit_code)


@contextmanager
def handle_signals(finishes: str = BATCH, *, quiet: bool = False) -> Iterator[StopRequest]:
    """Turn signals into an orderly stop of the run while the context is open."""
    request = StopRequest(finishes, quiet=quiet)
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    previous = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, request)
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def finish_writing() -> Iterator[None]:
    """Let a result be written completely before the first signal ends the command."""
    if isinstance(signal.getsignal(signal.SIGINT), StopRequest):
        yield  # the run that set this handler ends the command
        return
    with handle_signals(RESULT) as request:
        yield
    request.end()
