"""A callback for Lightning's Trainer: norm statistics of every k-th step, in its loggers."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import Tensor

from normscope.analyses.training.step_windows import StepWindows, WindowOptions
from normscope.errors import install
from normscope.statistics.running_statistics import MOMENTUM, RunningStatistics, of_tensors, tensors_of

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise ImportError(f"LightningNormCallback needs the package lightning; {install('lightning')}") from error


class LightningNormCallback(Callback):
    """Measures the normalization layers in a Lightning Trainer's own forwards, and logs the numbers.

        trainer = lightning.Trainer(..., callbacks=[normscope.LightningNormCallback(every=100)])

    Options, numbers and names are those of `NormCallback`; a validation's are "eval_norms/...". All loggers
    of the trainer get them at each measured step, whatever its `log_every_n_steps`, and `callback_metrics`
    has them for other callbacks. Checkpoints keep the running statistics. Needs the extra `lightning`.
    """

    log_dict: Any  # Lightning's Trainer sets it on every callback.

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
        super().__init__()
        options = WindowOptions(
            every, layers, exclude, metrics, per_layer, prefix, eval_batches, momentum, save
        )
        self._windows = StepWindows(options)
        self._batch = ExitStack()
        self._step: int | None = None
        self._restored: dict[str, RunningStatistics] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or continue after a checkpoint."""
        self._windows.begin(pl_module, trainer.global_step, self._restored, is_main=trainer.is_global_zero)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Measure the batch if its step is measured; a step may have several."""
        if self._step is None:
            self._step = trainer.global_step + 1
            self._windows.begin_step(pl_module, self._step)
        self._open(self._windows.measure_step(pl_module))

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Log the numbers of a step that ends."""
        self._batch.close()
        if self._step is not None and trainer.global_step >= self._step:
            self._log(trainer, self._windows.end_step(self._step), self._step)
            self._step = None

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Measure the first batches of a validation."""
        if not trainer.sanity_checking:
            self._open(self._windows.measure_evaluation(pl_module))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """End the batch."""
        self._batch.close()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation's numbers."""
        if not trainer.sanity_checking:
            numbers = self._windows.end_evaluation(pl_module, trainer.global_step)
            self._log(trainer, numbers, trainer.global_step)

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Remove the hooks."""
        self._batch.close()
        self._step = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running statistics, for a checkpoint."""
        return tensors_of(self._windows.running)

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take the running statistics of a checkpoint."""
        self._restored = of_tensors(state_dict)

    def _open(self, window: AbstractContextManager[object]) -> None:
        self._batch.enter_context(window)

    def _log(self, trainer: Trainer, numbers: dict[str, float], step: int) -> None:
        if numbers:
            self.log_dict(numbers, logger=False, rank_zero_only=True)
            # By themselves the loggers would get them only where log_every_n_steps falls on the same step.
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=step)
