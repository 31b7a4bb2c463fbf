"""Measures, in one run, the calibration statistics of each layer that can be replaced."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.replacement import Statistics, obstacle
from normscope.capture.watcher import watch
from normscope.data.batching import Batches, Batching
from normscope.data.media_files import Given
from normscope.engine.loop import measure, prepare_model, text_batches
from normscope.engine.progress import Clock, Progress
from normscope.errors import UsageError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.inspect import LayerReport, Report
from normscope.statistics.moments import Moments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Calibrated:
    """A calibration with the report of its run, and why layers were left out of it, a sentence each."""

    calibration: Calibration
    report: Report
    notes: tuple[str, ...]

    @property
    def layers(self) -> dict[str, LayerReport]:
        """The run's reports on the layers that can be replaced, by name."""
        return {name: self.report.layers[name] for name in self.calibration.layers}


def calibrate(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Take the statistics that `swapped` needs for any kind of replacement, over these texts.

    All arguments are as for `inspect`. Layers that cannot be replaced have no statistics in it. Raises
    what `inspect` raises, and UsageError when no layer can be replaced.
    """
    given = Given(texts)
    clock = Clock(progress)
    loaded = prepare_model(model, given.kinds, clock, loading, tokenizer)
    batches = text_batches(loaded, given.texts or (), batching)
    return calibrated(loaded, batches, clock, layers, exclude).calibration


def calibrated(
    loaded: Loaded,
    batches: Batches,
    clock: Clock,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Calibrated:
    """Measure the calibration statistics of a loaded model; some of its layers may be replaced already."""
    watcher = watch(loaded.model, layers=layers, exclude=exclude)
    for capture in watcher.captures:
        capture.scales = Moments.empty(1, 1)
    report = measure(loaded, Given(()), batches.batching, watcher, clock, batches=batches)
    found: dict[str, Statistics] = {}
    notes = []
    for capture in watcher.captures:
        statistics, reason = Statistics.of(capture), obstacle(capture.norm)
        if statistics is None or reason is not None:
            notes.append(f"{capture.norm.name}: left as it is: {reason or 'it was never called'}")
        else:
            found[capture.norm.name] = statistics
    if not found:
        raise UsageError(f"no layer can be replaced ({notes[0]}); expected a LayerNorm or an RMSNorm")
    return Calibrated(Calibration(loaded.id, found), report, tuple(notes))
