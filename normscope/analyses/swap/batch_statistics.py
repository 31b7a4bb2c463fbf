"""Statistics of batches that run in parts: over all rows, at each call of a replaced layer."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from normscope.errors import NormscopeError, RunError
from normscope.statistics.moments import Moments

T = TypeVar("T")


class _UnknownError(NormscopeError):
    """Ends a part at a call whose statistics are not known yet; `together` catches it."""


class BatchStatistics:
    """Collects the statistics of a whole batch from its parts, one call of a layer after the other.

    A call's input depends on the statistics of the calls before it, so every part runs again from the
    start for each call. This takes k + 1 rounds for k calls, and no more memory than one part.
    """

    def __init__(self) -> None:
        self._known: list[Moments] = []
        self._names: list[str] = []
        self._calls = 0
        self._new: Moments | None = None

    def together(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of the parts' runs, computed with the statistics of the whole batch."""
        while True:
            results = [self._try(run) for run in runs]
            if self._new is None:
                return [result for finished in results for result in finished]
            self._known.append(self._new)
            self._new = None

    def of(self, name: str, valid: Tensor) -> Moments:
        """Return the whole batch's moments at a layer's call; `valid` (V, D) are the current part's rows."""
        self._calls += 1
        # Calls are matched by their number, so every part must call the same layers in the same order.
        if self._names[self._calls - 1 : self._calls] not in ([], [name]):
            raise RunError(
                f"{name} is called in one part of a batch and not in another; expected the same calls in "
                "both; try a smaller --batch-size"
            )
        if self._calls <= len(self._known):
            return self._known[self._calls - 1]
        self._names[self._calls - 1 :] = [name]
        own = Moments.of(valid.cpu().double())
        if self._new is None:
            self._new = own
        else:
            self._new.merge(own)
        raise _UnknownError

    def _try(self, run: Callable[[], T]) -> list[T]:
        self._calls = 0
        try:
            return [run()]
        except _UnknownError:
            return []
