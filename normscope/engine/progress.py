"""Progress of a run and its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from normscope.statistics.position_bins import TablePlan


@dataclass(frozen=True)
class Progress:
    """The progress of a run: `stage` is "load", "plan", "run" or "analysis", which follows the last batch.

    `expected_texts` is an estimate, None without one. `tables` is the plan of the tables over positions,
    only at the stage "plan".
    """

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float
    tables: TablePlan | None = None


class Clock:
    """Reports the progress of a run to the caller's function."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._begun = progress, time.perf_counter()
        self.earlier = 0.0
        """The seconds of the run before it was resumed."""

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return self.earlier + time.perf_counter() - self._begun

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function, if there is one."""
        if self._progress:
            self._progress(Progress(stage, texts, tokens, expected, self.seconds()))

    def plan(self, tables: TablePlan) -> None:
        """Report the plan of the tables to the caller's function, if there is one."""
        if self._progress:
            self._progress(Progress("plan", 0, 0, None, self.seconds(), tables))
