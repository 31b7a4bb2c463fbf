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
from normscope.analyses.swap.calibration import MeasuredCalibration, measure_calibration
from normscope.analyses.swap.folding import CheckedFold, Difference
from normscope.analyses.swap.options import BATCH, FROZEN, RMSNORM, Swapping
from normscope.analyses.swap.squashing import RUNS
from normscope.analyses.swap.trial import Trial, Variant, Work
from normscope.data.batching import Batching, require_number
from normscope.data.corpus import CorpusReader
from normscope.data.held_out_split import SplitTexts, split_texts
from normscope.engine.forward import evaluating
from normscope.engine.progress import Progress
from normscope.engine.session import Session, text_batches
from normscope.errors import ReportError, SaveError
from normscope.escaping import counted
from normscope.models.loading import Loaded, quiet
from normscope.models.location import Loading
from normscope.norms.module_tree import uncompiled
from normscope.results.provenance import with_facts
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

    The statistics are measured on the texts of `calibration` or, without it, on every other text of
    `texts`. The effects are measured on the remaining texts, without those that the calibration also has.
    Each layer is replaced alone, then all together; `swapping` has the kind of replacement and further
    trials. `layers` and `exclude` are globs that choose the layers to replace. With `save` the statistics
    are written to that folder, for `read_calibration`, and the fold, for `read_fold`. All other arguments
    are as for `inspect`. The model is the same afterwards.

    Raises what `inspect` raises, TextError when no text is left to hold out, UsageError when no layer
    can be replaced, and SaveError, which has the report, when the folder of `save` cannot be written.
    """
    if swapping.kind == BATCH:
        require_number(batching.batch_size, f"{BATCH}, whose statistics are each batch's")
    work = Work(progress)
    session = Session.open(model, work, loading, tokenizer)
    corpus = CorpusReader(texts)
    parted = split_texts(corpus, calibration, batching.limit, unique=batching.unique)
    # Both were applied before the texts were split.
    batching = replace(batching, limit=None, unique=False)
    work.expected = _expected(parted, swapping, len(layer_names(session.loaded, layers, exclude)))
    batches = text_batches(session.loaded, parted.calibration, batching, keep=swapping.reads_again)
    measured = measure_calibration(session, batches, layers, exclude, kind=swapping.kind)
    trial = Trial(session, parted, batches, swapping, measured, work)
    with quiet(), uncompiled(), evaluating(session.loaded.model), torch.no_grad():
        report = _report(trial, swapping, measured, parted)
        checked = trial.fold() if swapping.fold else None
        if checked is not None:
            report = replace(report, fold=_fold_info(trial, checked))
    # Calibration may have given the same warnings on memory: each is reported once.
    new = [note for note in trial.parts.notes if note not in report.warnings]
    run = replace(report.run, seconds=work.seconds())
    provenance = with_facts(
        measured.report.provenance, seed=swapping.seed, texts_read=corpus.read, texts_sha256=corpus.digest
    )
    report = replace(report, warnings=(*report.warnings, *new), run=run, provenance=provenance)
    if save is not None:
        try:
            trial.calibration.save(save)
            if checked is not None:
                checked.fold.save(save)
        except ReportError as error:
            raise SaveError(str(error), report) from error
    return report


def _report(
    trial: Trial, swapping: Swapping, measured: MeasuredCalibration, parted: SplitTexts
) -> SwapReport:
    variants: list[Variant] = [*((name,) for name in trial.names), trial.names]
    *effects, together = trial.effects(variants)
    baseline = trial.baseline()
    layers = {}
    for name, alone in zip(trial.names, effects, strict=True):
        layer = measured.report.layers[name]
        fits = measured.fits(name, swapping.kind)
        layers[name] = LayerSwap(name, layer.index, layer.kind, layer.features, alone, **fits)
    steps = _cumulative(trial, swapping, layers, together) if swapping.cumulative else None
    if swapping.recalibrate:
        *_, all_layers = trial.recalibrate_in(trial.names)
        (together,) = trial.effects([all_layers])
    run, notes = measured.report.run, _notes(parted, swapping, layers, together)
    return SwapReport(
        __version__,
        measured.report.model,
        trial.run,
        swapping.kind,
        swapping.seed,
        CalibrationInfo(run.texts, run.tokens, swapping.recalibrate),
        baseline,
        layers,
        Together(together),
        steps,
        (*measured.report.warnings, *measured.notes, *trial.readout.notes, *notes),
        first=swapping.first if swapping.kind == FROZEN else None,
    )


def _cumulative(
    trial: Trial, swapping: Swapping, layers: dict[str, LayerSwap], together: Effect
) -> tuple[Step, ...]:
    """Replace the layers one after the other, the most tolerant first."""
    tolerant = sorted(layers.values(), key=lambda layer: (layer.effect.damage, layer.index))
    order = tuple(layer.name for layer in tolerant)
    if swapping.recalibrate:
        effects = [trial.effects([variant])[0] for variant in trial.recalibrate_in(order)]
    else:
        # The first step and the last are known already: one layer alone, and all together.
        variants = [order[: count + 1] for count in range(1, len(order) - 1)]
        between = trial.effects(variants) if variants else []
        effects = [tolerant[0].effect, *between, together][: len(order)]
    return tuple(Step(name, count + 1, effects[count]) for count, name in enumerate(order))


def _fold_info(trial: Trial, checked: CheckedFold) -> FoldInfo:
    fold, layers = checked.fold, []
    for name in trial.names:
        difference, folded = checked.alone.get(name, Difference()), fold.layers.get(name)
        into, reason = (folded.into, None) if folded is not None else ((), fold.refused[name])
        layers.append(FoldedLayer(name, into, reason, difference.absolute, difference.relative))
    names = tuple(fold.layers)
    return FoldInfo(
        checked.tolerance,
        checked.together.absolute,
        checked.together.relative,
        trial.effects([names])[0] if names else None,
        tuple(layers),
    )


def _notes(
    parted: SplitTexts, swapping: Swapping, layers: dict[str, LayerSwap], together: Effect
) -> Iterator[str]:
    if parted.repeated:
        was = "text was left out: it is" if parted.repeated == 1 else "texts were left out: they are"
        yield f"{parted.repeated} held-out {was} also in the calibration"
    same = [name for name, layer in layers.items() if swapping.kind == layer.kind == RMSNORM]
    if same:
        are = "is an RMSNorm" if len(same) == 1 else "are RMSNorms"
        yield f"{counted(len(same), 'layer')} {are} already, so rmsnorm changes nothing there: {same[0]}"
    broken = [name for name, layer in layers.items() if math.isinf(layer.effect.damage)]
    broken += ["all layers"] if math.isinf(together.damage) else []
    for name in broken:
        yield f"{name}: once replaced, the model gives NaN or infinity"


def _expected(parted: SplitTexts, swapping: Swapping, layers: int) -> int:
    """Estimate the number of texts over all runs of the model."""
    calibrations, runs = 1, layers + 2
    if swapping.recalibrate:
        calibrations, runs = calibrations + layers, runs + 2
    if swapping.cumulative:
        calibrations += layers * swapping.recalibrate
        runs += 2 * layers if swapping.recalibrate else max(0, layers - 1)
    calibrations *= 1 + RUNS.get(swapping.kind, 0)
    return calibrations * len(parted.calibration) + runs * len(parted.held_out)
