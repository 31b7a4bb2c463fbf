"""A progress bar on standard error, shown only on a terminal."""

import logging
import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from normscope.cli.output import say, wants_colour

if TYPE_CHECKING:
    from normscope.engine.progress import Progress
    from normscope.statistics.position_bins import TablePlan

VARIABLE = "HF_HUB_DISABLE_PROGRESS_BARS"
_OFF = {"0", "off", "no", "false", ""}


def wanted(quiet: bool) -> bool:
    """Whether to show progress: at a terminal, unless --quiet or the Hub's variable forbids it.

    --quiet also sets that variable, which the Hub reads when it is first imported, and silences our log.
    """
    if quiet:
        os.environ[VARIABLE] = "1"
        logging.getLogger("normscope").setLevel(logging.ERROR)
    disabled = os.environ.get(VARIABLE, "").lower() not in _OFF
    return not disabled and sys.stderr is not None and sys.stderr.isatty()


class ProgressBar:
    """A context manager for the `progress` of an analysis: a line while loading, then a temporary bar.

    With `plans` it also writes the planned size of tables before the run, even if it is not `shown`. The
    bar waits for the first batch, since the Hub draws its own bars while it downloads.
    """

    def __init__(self, model: str, *, shown: bool, plans: bool = False) -> None:
        self._model, self._shown, self._plans = model, shown, plans
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "ProgressBar":
        if self._shown:
            say(f"loading {self._model}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: "Progress") -> None:
        """Redraw the bar."""
        if self._plans and progress.tables is not None:
            say(_planned_tables(progress.tables))
        if self._bar is not None and progress.stage == "analysis":
            self._bar.remove_task(self._task)  # all texts are done, so its clock would stand still
            self._task = self._bar.add_task("analysing", total=None, completed=progress.texts, rate="0")
        if not self._shown or progress.stage != "run":
            return
        if self._bar is None:
            self._bar = _bar()
            self._task = self._bar.add_task("running", total=None, rate="0")
            self._bar.start()
        # The expected total is an estimate that may be too low.
        expected = progress.expected_texts
        rate = progress.tokens / max(progress.seconds, 1e-9)
        total = None if expected is None else max(expected, progress.texts)
        self._bar.update(self._task, completed=progress.texts, total=total, rate=f"{rate:,.0f}")


def _planned_tables(plan: "TablePlan") -> str:
    """Return a line on the planned tables over positions."""
    from normscope.render.plan import describe_tables
    from normscope.results.plan import Tables

    exact = plan.bins.exact if plan.bins else None
    return f"tables: {describe_tables(Tables(plan.bytes, plan.rows, plan.positions, exact))}"


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=not wants_colour(), highlight=False)
    columns = ("{task.description}", "texts: {task.completed}", "{task.fields[rate]} tokens/s")
    description, texts, rate = (TextColumn(column) for column in columns)
    times = (TimeElapsedColumn(), TimeRemainingColumn(compact=True))
    return Progress(description, BarColumn(20), texts, rate, *times, console=console, transient=True)
