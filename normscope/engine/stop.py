"""Stops a run early: between two batches, or at once while it waits for texts."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Stop:
    """Ends a run early, with a report of the texts so far: pass one to `inspect`, and call `ask` later."""

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    def ask(self) -> None:
        """Ask for the end, for example from a signal handler; the current batch is finished first.

        If the run waits for texts, as on a pipe, KeyboardInterrupt ends the waiting.
        """
        self.asked = True
        if self._waits:
            raise KeyboardInterrupt

    def until_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items until the end is asked for."""
        rest = iter(items)
        while not self.asked:
            try:
                self._waits = True
                try:
                    item = next(rest)
                finally:
                    self._waits = False
            except StopIteration:
                return
            except KeyboardInterrupt:
                if not self.asked:
                    raise
                return
            yield item
