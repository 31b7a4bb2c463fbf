"""A callback for transformers' Trainer: norm statistics of every k-th step, in the loggers it reports to."""

# ruff: noqa: ARG002 (the Trainer names the arguments of its events)

import functools
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from normscope.analyses.training.step_windows import StepWindows, WindowOptions
from normscope.errors import UsageError
from normscope.statistics.running_statistics import MOMENTUM, read_running


class NormCallback(TrainerCallback):
    """Measures the normalization layers in a Trainer's own forwards, and gives the numbers to `Trainer.log`.

        trainer = Trainer(..., callbacks=[normscope.NormCallback(every=100)])

    Step 1 and every k-th step are measured, each on its own: all batches of the step, in their own forwards
    and without another one. No output, gradient or random number changes. TensorBoard, wandb, trackio and
    the console show the numbers of `Window.scalars` as "norms/metric/layer" and "norms/metric/median", and
    those of an evaluation, measured in its first `eval_batches` batches, as "eval_norms/...".

    `layers` and `exclude` are globs on layer names, `metrics` names of `Window.scalars`. With
    `per_layer=False` only the medians over layers are logged. `momentum` is that of BatchNorm's running
    statistics, which are taken over the measured steps; at `every=1` they are BatchNorm's own.
    `save` names a file for the full report on each window, as JSON Lines for `normscope track`.

    With DistributedDataParallel each process measures its part; the main one merges them. A resumed
    training goes on with the file and the running statistics. Raises UsageError for wrong options, and when
    the training begins with sharded weights (FSDP, DeepSpeed ZeRO-3).
    """

    def __init__(
        self,
        every: int = 100,
        *,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        metrics: Sequence[str] = (),
        per_layer: bool = True,
        prefix: str = "norms",
        eval_batches: int = 8,
        momentum: float = MOMENTUM,
        save: str | os.PathLike[str] | None = None,
    ) -> None:
        options = WindowOptions(
            every, layers, exclude, metrics, per_layer, prefix, eval_batches, momentum, save
        )
        self._windows = StepWindows(options)
        self._trainer: Callable[[], Trainer | None] = lambda: None

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Measure the batches of the trainer from now on."""
        self._attach()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **others: Any) -> None:
        """Begin, or continue after a checkpoint."""
        self._attach()
        step = state.global_step
        running = read_running(_checkpoint(args, step)) if step else {}
        self._windows.begin(others["model"], step, running, is_main=state.is_world_process_zero)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **others: Any) -> None:
        """Choose whether this step is measured."""
        self._windows.begin_step(others["model"], state.global_step + 1)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Log the step's numbers."""
        self._log(self._windows.end_step(state.global_step), control)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Log the evaluation's numbers."""
        self._log(self._windows.end_evaluation(others["model"], state.global_step), control)

    def on_predict(self, *_: Any, **__: Any) -> None:
        """Forget a prediction."""
        self._windows.drop_evaluation()

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Save the running statistics beside the checkpoint."""
        if state.is_world_process_zero:
            self._windows.save(_checkpoint(args, state.global_step))

    def _attach(self) -> None:
        """Let the trainer that calls run each batch in the context of its window."""
        trainer = _calling_trainer()
        if self._trainer() is trainer:
            return
        self._trainer = weakref.ref(trainer)
        windows = self._windows
        # Events tell when a step begins, but none comes after an exception: only a context closes then.
        contexts = {"training_step": windows.measure_step, "prediction_step": windows.measure_evaluation}
        for name, context in contexts.items():
            setattr(trainer, name, _within(getattr(trainer, name), context))

    def _log(self, numbers: dict[str, float], control: TrainerControl) -> None:
        trainer = self._trainer()
        if numbers and trainer is not None:
            # Logging takes the trainer's wish to log its loss as fulfilled.
            wish = control.should_log
            trainer.log(numbers)
            control.should_log = wish


def _calling_trainer() -> Trainer:
    """Return the Trainer whose event runs; events pass everything but the trainer itself."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            return owner
    raise UsageError(
        "NormCallback was called by no Trainer; expected transformers' own; elsewhere use "
        "normscope.watch(model).window()"
    )


def _within(
    run: Callable[..., Any], context: Callable[[nn.Module], AbstractContextManager[object]]
) -> Callable[..., Any]:
    """Return a method of a trainer, `run(model, ...)`, that runs in a context."""

    @functools.wraps(run)
    def measured(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with context(model):
            return run(model, *args, **kwargs)

    return measured


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{step}"
