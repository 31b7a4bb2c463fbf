"""Measures what breaks when normalization layers are replaced, one at a time and all together."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from normscope._version import __version__
from normscope.analyses.inspect import layer_names
from normscope.analyses.swap.calibrate import Calibrated, calibrated
from normscope.analyses.swap.folding import Difference, Proven
from normscope.analyses.swap.options import BATCH, Swapping
from normscope.analyses.swap.trial import Trial, Variant, Work
from normscope.data.batching import Batching, require_number
from normscope.data.held_out_split import Parted, part
from normscope.engine.forward import evaluating
from normscope.engine.loop import prepare_model, text_batches
from normscope.engine.progress import Progress
from normscope.errors import ReportError, SaveError
from normscope.models.loading import Loaded, quiet
from normscope.models.location import Loading
from normscope.models.modality import TEXT
from normscope.norms.module_tree import as_written
from normscope.results.swap import (
    CalibrationInfo,
    Effect,
    FoldedLayer,
    FoldInfo,
    LayerSwap,
    Step,
    SwapReport,
    Together,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def swap(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    calibration: Iterable[str] | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    swapping: Swapping = Swapping(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    save: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> SwapReport:
    """Replace a model's LayerNorms and RMSNorms by BatchNorm-style layers and report what breaks.

    The statistics are those of the texts of `calibration` or, without any, of every other one of
    `texts`; the effects are measured on the others, and a text that is among both is held out of these.
    Each layer is replaced alone, then all are; `swapping` says by what, and what else is tried. `layers`
    and `exclude` are globs that choose the layers to replace. With `save` the statistics go to that
    folder, for `read_calibration`, and what was folded, for `read_fold`. All else is as for `inspect`. The
    model comes back as it was.

    Raises what `inspect` raises, TextError when no text is left to hold out, UsageError when no layer
    can be replaced, and SaveError, which has the report, when the folder of `save` cannot be written.
    """
    if swapping.kind == BATCH:
        require_number(batching.batch_size, f"{BATCH}, whose statistics are each batch's")
    work = Work(progress)
    loaded = prepare_model(model, (TEXT,), work, loading, tokenizer)
    parted = part(texts, calibration, batching.limit, unique=batching.unique)
    batching = replace(batching, limit=None, unique=False)
    work.expected = _expected(parted, swapping, len(layer_names(loaded, layers, exclude)))
    batches = text_batches(loaded, parted.calibration, batching, keep=swapping.recalibrate)
    known = calibrated(loaded, batches, work, layers, exclude)
    work.finish(known.report.run.texts, known.report.run.tokens)
    trial = Trial(loaded, parted, batches, swapping, known, work)
    with quiet(), as_written(), evaluating(loaded.model), torch.no_grad():
        report = _tried(trial, swapping, known, parted)
        proven = trial.folded() if swapping.fold else None
        if proven is not None:
            report = replace(report, fold=_fold_info(trial, proven))
    # Calibration may have given the same warnings on memory: each is reported once.
    new = [note for note in trial.parts.notes if note not in report.warnings]
    report = replace(report, warnings=(*report.warnings, *new))
    report = replace(report, run=replace(report.run, seconds=work.seconds()))
    if save is not None:
        try:
            trial.calibration.save(save)
            if proven is not None:
                proven.fold.save(save)
        except ReportError as error:
            raise SaveError(str(error), report) from error
    return report


def _tried(trial: Trial, swapping: Swapping, known: Calibrated, parted: Parted) -> SwapReport:
    alone: list[Variant] = [(name,) for name in trial.names]
    *effects, together = trial.effects([*alone, trial.names])
    baseline = trial.baseline()
    layers = {
        name: LayerSwap(name, layer.index, layer.kind, layer.features, found)
        for (name, layer), found in zip(known.layers.items(), effects, strict=True)
    }
    steps = _cumulative(trial, swapping, layers, together) if swapping.cumulative else None
    if swapping.recalibrate:
        *_, everything = trial.growing(trial.names)
        (together,) = trial.effects([everything])
    run = known.report.run
    return SwapReport(
        __version__,
        known.report.model,
        trial.run,
        swapping.kind,
        swapping.seed,
        CalibrationInfo(run.texts, run.tokens, swapping.recalibrate),
        baseline,
        layers,
        Together(together),
        steps,
        (
            *known.report.warnings,
            *known.notes,
            *trial.readout.notes,
            *_notes(parted, layers, Together(together)),
        ),
    )


def _cumulative(
    trial: Trial, swapping: Swapping, layers: dict[str, LayerSwap], together: Effect
) -> tuple[Step, ...]:
    """Replace the layers one after the other, the most tolerant first."""
    tolerant = sorted(layers.values(), key=lambda layer: (layer.effect.damage, layer.index))
    order = tuple(layer.name for layer in tolerant)
    if swapping.recalibrate:
        effects = [trial.effects([variant])[0] for variant in trial.growing(order)]
    else:
        variants = [order[: count + 1] for count in range(1, len(order) - 1)]
        between = trial.effects(variants) if variants else []
        effects = [tolerant[0].effect, *between, together][: len(order)]
    return tuple(Step(name, count + 1, effects[count]) for count, name in enumerate(order))


def _fold_info(trial: Trial, proven: Proven) -> FoldInfo:
    names, nothing = tuple(proven.fold.layers), Difference()
    layers = []
    for name in trial.names:
        tried, folded = proven.alone.get(name, nothing), proven.fold.layers.get(name)
        into, why = (folded.into, None) if folded is not None else ((), proven.fold.refused[name])
        layers.append(FoldedLayer(name, into, why, tried.absolute, tried.relative))
    return FoldInfo(
        proven.tolerance,
        proven.together.absolute,
        proven.together.relative,
        trial.effects([names])[0] if names else None,
        tuple(layers),
    )


def _notes(parted: Parted, layers: dict[str, LayerSwap], together: Together) -> Iterator[str]:
    if parted.repeated:
        was = "text was left out: it is" if parted.repeated == 1 else "texts were left out: they are"
        yield f"{parted.repeated} held-out {was} calibrated on, too"
    lost = [name for name, layer in layers.items() if math.isinf(layer.effect.damage)]
    lost += ["all layers"] if math.isinf(together.effect.damage) else []
    for name in lost:
        yield f"{name}: once replaced, the model gives NaN or infinity"


def _expected(parted: Parted, swapping: Swapping, layers: int) -> int:
    """Estimate the number of texts over all runs of the model."""
    calibrations, runs = 1, layers + 2
    if swapping.recalibrate:
        calibrations, runs = calibrations + layers, runs + 2
    if swapping.cumulative:
        calibrations += layers * swapping.recalibrate
        runs += 2 * layers if swapping.recalibrate else max(0, layers - 1)
    return calibrations * len(parted.calibration) + runs * len(parted.held_out)
