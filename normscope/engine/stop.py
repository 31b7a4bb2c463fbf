"""Asks a run to stop: between two batches, or at once while it waits for texts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stop:
    """Ends a run early, with a report of what was seen so far; hand one to `inspect`, and `ask` it."""

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    def ask(self) -> None:
        """Ask for the end, from a signal handler say: the batch that runs is finished first.

        Where the run waits for texts, as on a pipe, KeyboardInterrupt ends that.
        """
        self.asked = True
        if self._waits:
            raise KeyboardInterrupt

    def until_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Give the items until the end was asked for."""
        rest = iter(items)
        while not self.asked:
            try:
                with self._waiting():
                    item = next(rest)
            except StopIteration:
                return
            except KeyboardInterrupt:
                if not self.asked:
                    raise
                return
            yield item

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
