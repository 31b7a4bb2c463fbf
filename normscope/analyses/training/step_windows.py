"""Windows of a trainer's steps and evaluations: when they are measured, and where their numbers go."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from normscope.capture.recorder import Recorder
from normscope.capture.scalars import require_metrics
from normscope.capture.window import Window
from normscope.errors import UsageError
from normscope.results.windows import append_window, keep_windows
from normscope.statistics.running_statistics import MOMENTUM, RunningStatistics, write_running


@dataclass(frozen=True)
class WindowOptions:
    """The options that all callbacks share; see `NormCallback`."""

    every: int = 100
    layers: Sequence[str] = ()
    exclude: Sequence[str] = ()
    metrics: Sequence[str] = ()
    per_layer: bool = True
    prefix: str = "norms"
    eval_batches: int = 8
    momentum: float = MOMENTUM
    save: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("every", 1), ("eval_batches", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < minimum:
                raise UsageError(f"{name} is {value!r}; expected {minimum} or more; leave it out")
        require_metrics(self.metrics)


class StepWindows:
    """Measures chosen steps and the first batches of each evaluation, one window each.

    A window is open only while the trainer runs a batch, so that an exception anywhere leaves no hook.
    Running statistics are those of the training steps; evaluations are compared with them.
    """

    def __init__(self, options: WindowOptions) -> None:
        self.options = options
        self._recorder: Recorder | None = None
        self.running: dict[str, RunningStatistics] = {}
        """BatchNorm's running statistics of each layer after the last measured step."""
        self._step: Window | None = None
        self._evaluation: Window | None = None
        self._evaluated = 0

    def begin(
        self, model: nn.Module, step: int, running: dict[str, RunningStatistics], *, is_main: bool
    ) -> None:
        """Begin a training after `step` steps with these running statistics, both of a checkpoint or none."""
        self._new(model)  # Refuses a model that cannot be measured before the first step.
        self._step = self._evaluation = None
        self.running = running
        if self.options.save is not None and is_main:
            keep_windows(self.options.save, step)

    def _new(self, model: nn.Module) -> Window:
        """Return a window of a model, whose layers are found once, unless the trainer has changed it."""
        if self._recorder is None or not self._recorder.is_of(model):
            self._recorder = Recorder(model, self.options.layers, self.options.exclude)
        self._recorder = self._recorder.renewed()
        return Window(self._recorder, self.running, self.options.momentum)

    def begin_step(self, model: nn.Module, step: int) -> None:
        """Choose whether the step with this number, from 1, is measured: the first, and every k-th."""
        due = step == 1 or step % self.options.every == 0
        self._step = self._new(model) if due else None

    def measure_step(self, _: nn.Module) -> AbstractContextManager[object]:
        """Return the context for a batch of the current step."""
        return nullcontext() if self._step is None else self._step

    def end_step(self, step: int) -> dict[str, float]:
        """Return the numbers of the step that ends, on the main process; without any, an empty dictionary."""
        window, self._step = self._step, None
        if window is None or not window.gather():
            return {}
        numbers = self._read(window, step, "train")
        self.running = window.running()
        return numbers

    def measure_evaluation(self, model: nn.Module) -> AbstractContextManager[object]:
        """Return the context for the next batch of an evaluation."""
        if self._evaluated >= self.options.eval_batches:
            return nullcontext()
        self._evaluated += 1
        self._evaluation = self._evaluation or self._new(model)
        return self._evaluation

    def end_evaluation(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return the numbers of the evaluation that ends, on the main process."""
        window, self._evaluation, self._evaluated = self._evaluation, None, 0
        if not self.options.eval_batches:
            return {}
        window = window or self._new(model)  # A process without a batch of its own takes part in `gather`.
        return self._read(window, step, "eval") if window.gather() else {}

    def drop_evaluation(self) -> None:
        """Forget a prediction, which is no evaluation."""
        self._evaluation, self._evaluated = None, 0

    def save(self, checkpoint: Path) -> None:
        """Save the running statistics into the folder of a checkpoint, if it exists."""
        if self.running and checkpoint.is_dir():
            write_running(self.running, checkpoint)

    def _read(self, window: Window, step: int, split: str) -> dict[str, float]:
        options = self.options
        numbers = window.scalars(
            options.prefix if split == "train" else f"{split}_{options.prefix}",
            options.metrics,
            per_layer=options.per_layer,
        )
        if options.save is not None and numbers:
            append_window(options.save, step, split, window.report(), window.gaps())
        return numbers
