"""Runs a model once over texts and measures BatchNorm's noise at any batch size."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from normscope._version import __version__
from normscope.capture.layer_summary import summary_of
from normscope.capture.recorder import Recorder
from normscope.capture.text_sample import TextSample
from normscope.data.batch_sampling import Drawing, Plan, plans
from normscope.data.batching import Batching
from normscope.data.media_files import Inputs
from normscope.engine.loop import RunContext
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session
from normscope.errors import TextError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.batches import (
    BatchFilling,
    BatchNoise,
    BatchReport,
    KeptTexts,
    LayerNoise,
    NoiseParts,
    Running,
)
from normscope.results.common import Summary
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import with_facts
from normscope.statistics.batch_composition import Flags, filling
from normscope.statistics.batch_noise import Noise, excess, noise
from normscope.statistics.moments import Spread

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def batch_noise(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    drawing: Drawing = Drawing(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Report what BatchNorm would see in batches of these texts, at every normalization layer.

    The texts are run once. For a random sample of texts, whose size `drawing` bounds, each layer
    stores the count, mean and M2 of every feature per text. Batches of any size are exact merges of
    these moments, and are compared with all sampled texts together. `batching` only says how texts
    are run. All other arguments are as for `inspect`.

    Raises what `inspect` raises, and TextError when there are not two texts to put into a batch.
    """
    inputs = Inputs(texts)
    session = Session.open(model, Clock(progress), loading, tokenizer)
    sample = TextSample(drawing.samples, drawing.table_memory, drawing.seed)
    recorder = Recorder(session.loaded.model, layers=layers, exclude=exclude)
    report = session.measure(recorder, session.batches(inputs, batching), RunContext(sample=sample))
    return _reported(report, sample, drawing)


def _reported(report: Report, sample: TextSample, drawing: Drawing) -> BatchReport:
    counted = sample.counted()
    drawn = plans(drawing, sample.sources, [len(flags) for flags in counted])
    if not drawn:
        smallest = min(drawing.sizes, default=2)
        texts = "1 text" if len(counted) == 1 else f"{len(counted)} texts"
        raise TextError(
            f"{texts} to put into batches; expected at least {smallest}; give more texts, or smaller --sizes"
        )
    whole = filling(counted, np.arange(len(counted))[None])
    layers = {name: _layer(layer, sample, drawn, drawing.momentum) for name, layer in report.layers.items()}
    return BatchReport(
        __version__,
        report.model,
        report.run,
        drawing.draws,
        drawing.seed,
        drawing.momentum,
        KeptTexts(
            len(counted),
            int(whole.tokens.sum()),
            whole.positions,
            whole.positions_short,
            whole.late_samples,
            whole.variance_error,
        ),
        tuple(_filled(counted, plan) for plan in drawn),
        layers,
        (*report.warnings, *_notes(report, sample, drawing, layers)),
        with_facts(report.provenance, seed=drawing.seed),
    )


def _notes(report: Report, sample: TextSample, drawing: Drawing, layers: dict[str, LayerNoise]) -> list[str]:
    notes = []
    if sample.limited and len(sample.sources) < report.run.texts:
        notes.append(
            f"{len(sample.sources):,} texts are kept, not {drawing.samples:,}: more would take over the "
            f"{drawing.table_memory:,} bytes of table memory"
        )
    left_out = sorted(size for size in drawing.sizes if size > len(sample.sources))
    if left_out:
        sizes = ", ".join(map(str, left_out))
        notes.append(f"no batches of {sizes}: only {len(sample.sources):,} texts are kept")
    for name, layer in layers.items():
        if layer.sizes is None and report.layers[name].calls:
            notes.append(f"{name}: its rows are not known to be any text's, so no batches can be formed")
    return notes


def _layer(layer: LayerReport, sample: TextSample, drawn: list[Plan], momentum: float | None) -> LayerNoise:
    samples = sample.layer(layer.name).moments()
    sizes = None
    if samples is not None:
        noises = noise(samples, [torch.from_numpy(plan.texts) for plan in drawn], momentum)
        counts = samples.count[:, 0]
        sizes = tuple(_measured(plan, each, counts) for plan, each in zip(drawn, noises, strict=True))
    return LayerNoise(layer.name, layer.index, layer.kind, layer.features, sizes)


def _measured(plan: Plan, measures: Noise, counts: Tensor) -> BatchNoise:
    tokens = counts[torch.from_numpy(plan.texts)].sum(1)
    drift, running = measures.running, None
    if drift is not None:
        running = Running(drift.end_mean, drift.end_variance, _parts(drift.tid_mean, drift.tid_variance))
    return BatchNoise(
        plan.size,
        plan.order,
        _parts(measures.tid_mean, measures.tid_variance),
        _parts(measures.elementwise_mean, measures.elementwise_variance),
        _parts(measures.distance_mean, measures.distance_variance),
        running,
        excess(measures.tid_mean, tokens, float(counts.sum())),
    )


def _filled(counted: Sequence[Flags], plan: Plan) -> BatchFilling:
    contents = filling(counted, plan.texts)
    measured = {**vars(contents), "tokens": _summary(torch.from_numpy(contents.tokens))}
    return BatchFilling(plan.size, plan.order, len(plan.texts), **measured)


def _parts(mean: Tensor, variance: Tensor) -> NoiseParts:
    return NoiseParts(_summary(mean), _summary(variance))


def _summary(values: Tensor) -> Summary:
    return summary_of(Spread.of(values[values.isfinite()]))
