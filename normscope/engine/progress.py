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
    """Reports the progress of one run, or of several runs together, to the caller's function.

    A text counts once for each run. `expected` is the number of texts of all runs, None if it is unknown.
    """

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._begun = progress, time.perf_counter()
        self.earlier = 0.0
        """The seconds of the run before it was resumed."""
        self.expected: int | None = None
        self.texts = 0
        """The number of texts of the runs that are done."""
        self._tokens = 0

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return self.earlier + time.perf_counter() - self._begun

    def finish(self, texts: int, tokens: int) -> None:
        """Count the texts and tokens of a run, or of a part of one, as done."""
        self.texts += texts
        self._tokens += tokens

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function, if there is one; `expected` is that of one run, if not of all."""
        if self._progress:
            texts, tokens = self.texts + texts, self._tokens + tokens
            self._progress(Progress(stage, texts, tokens, self.expected or expected, self.seconds()))

    def plan(self, tables: TablePlan) -> None:
        """Report the plan of the tables to the caller's function, if there is one."""
        if self._progress:
            self._progress(Progress("plan", 0, 0, None, self.seconds(), tables))
