"""Ctrl-C and SIGTERM while a model runs: the first ends the run in order, the second at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from normscope.cli.guard import INTERRUPTED
from normscope.cli.streams import say
from normscope.stopping import Stop

# Exit codes of a run that a signal ended, as shells have them.
TERMINATED = 128 + signal.SIGTERM


class Asked:
    """Which signal asked for the end, and so what the command ends with."""

    def __init__(self, stop: "Stop", *, quiet: bool) -> None:
        self.stop, self._quiet = stop, quiet
        self.exit_code = 0

    def __call__(self, number: int, _frame: Any) -> None:
        """Ask the run to stop; the second time end it here."""
        if self.exit_code:
            raise KeyboardInterrupt
        self.exit_code = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if not self._quiet:
            say("interrupted: this batch is finished first; once more ends it at once")
        self.stop.ask()

    def end(self) -> None:
        """End the command with the signal's exit code, if one came."""
        if self.exit_code:
            raise typer.Exit(self.exit_code)


@contextmanager
def signals(*, quiet: bool = False) -> Iterator[Asked]:
    """Let the signals end the run in order while the context is open."""
    asked = Asked(Stop(), quiet=quiet)
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Only the main thread may set handlers.
        return
    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    except KeyboardInterrupt:
        if asked.exit_code == TERMINATED:
            say("interrupted")
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
