"""Tests the article's claims on a model and texts: one run, its nulls, then the evidence."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from normscope._version import __version__
from normscope.analyses.why import nulls, scale_effects
from normscope.analyses.why.evidence import LayerRows
from normscope.analyses.why.findings import Material, findings
from normscope.analyses.why.measures import ExpectedNoise, LayerMeasures, Sampling, measured
from normscope.analyses.why.nulls import RecordedTexts
from normscope.analyses.why.scale_effects import ScaleEffects
from normscope.analyses.why.token_sample import KeptTokens, TokensAtLayer
from normscope.analyses.why.vision import ImageMoments, image_moments, options_beside, require_both
from normscope.capture.recorder import Recorder
from normscope.data.batching import Batching, require_positive, require_seed
from normscope.data.corpus import CorpusReader
from normscope.data.media_files import FilePath, Inputs
from normscope.data.repeated_texts import Unique
from normscope.data.tokenization import special_ids
from normscope.engine.loop import RunContext
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session, text_batches
from normscope.errors import RunError, TextError, UsageError
from normscope.escaping import counted
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.common import Pooled
from normscope.results.inspect import Report
from normscope.results.provenance import with_facts
from normscope.results.why import WhyReport
from normscope.statistics.jackknife import groups_of, replicates
from normscope.statistics.position_bins import MEMORY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_TEXTS, SHOWN_TOKENS = 6, 16
# The noise of means has a heavy tail: long texts, and odd ones, have most of it.
_TEXTS_BESIDE, _IMAGES_BESIDE = 200, 100
# A correlation of similarities needs three texts in each replicate.
_LEAST_TEXTS = 8
_VIEWS = ("feature", "position", "sequence")


@dataclass(frozen=True)
class _Choices:
    """What all runs of a model share."""

    batching: Batching
    seed: int
    memory: int
    layers: Sequence[str]
    exclude: Sequence[str]


def why(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    samples: int = 512,
    table_memory: int = MEMORY,
    seed: int = 0,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    beside: str | os.PathLike[str] | nn.Module | Loaded | None = None,
    images: Sequence[FilePath] = (),
    processor: Any = None,
    progress: Callable[[Progress], None] | None = None,
) -> WhyReport:
    """Test the article's claims on why NLP uses LayerNorm and not BatchNorm with this model and these texts.

    The texts run once, a repeated text only at its first place. The tokens of at most `samples` of them,
    chosen at random, are kept at every layer, and no more than fit `table_memory` bytes. Numbers and their
    intervals come from those. Up to 512 texts run again for the nulls: with their words shuffled across
    texts, and through an untrained copy of the model. Special tokens run, and are left out where a claim
    says so. All else is as for `inspect`. Texts of one source are alike, and make the intervals too narrow.

    `beside` is a vision model, such as a CNN, for the claims that compare texts with images. It runs over
    the `images`, two files or more, and all its layers are measured. A model object needs its `processor`.
    Of `loading` it takes all but the revision and the attention, which are the text model's own.

    Raises what `inspect` raises, and TextError or MediaError when there are not two texts or images.
    """
    require_positive("samples", samples)
    require_seed(seed)
    require_both(beside, images)
    inputs = Inputs(texts)
    corpus = CorpusReader(inputs.texts or ())
    unique = Unique(corpus)
    clock = Clock(progress)
    session = Session.open(model, clock, loading, tokenizer)
    loaded = session.loaded
    vision = None
    if beside is not None:
        options = {**options_beside(loading, batching), "processor": processor, "progress": progress}
        vision = image_moments(beside, images, table_memory=table_memory, seed=seed, **options)
    choices = _Choices(batching, seed, table_memory, layers, exclude)
    kept = KeptTokens(samples, table_memory, seed, _special(loaded))
    recorded = replace(inputs, texts=RecordedTexts(unique, kept.texts, chat=batching.chat_template))
    report = _run(session, recorded, choices, kept)
    _require_two(kept)
    clock.show("analysis", report.run.texts, report.run.tokens)
    material = _material(loaded, report, kept, vision, choices)
    lost = len(report.layers) - len(material.layers)
    return WhyReport(
        __version__,
        report.model,
        replace(report.run, seconds=clock.seconds()),
        len(kept.sources),
        seed,
        findings(report.model.id, material),
        _pooled(kept, loaded.tokenizer),
        (
            *report.warnings,
            *_notes(report, kept, lost, 0 if batching.unique else unique.repeated),
            *material.notes,
            *(() if vision is None else vision.notes),
        ),
        len(nulls.spaced(kept.sources)),
        with_facts(report.provenance, seed=seed, texts_sha256=corpus.digest),
    )


def _material(
    loaded: Loaded, report: Report, kept: KeptTokens, vision: ImageMoments | None, choices: _Choices
) -> Material:
    """Measure the kept tokens layer by layer, then the nulls."""
    sampling = _sampling(kept, choices.seed)
    names = [name for name, layer in report.layers.items() if layer.position and layer.own_output]
    layers = [measured(rows, sampling) for rows in _rows(report, kept, names)]
    known = [each.name for each in layers]
    pool = [kept.texts[source] for source in kept.sources]
    texts = nulls.spaced(pool)
    shuffled = nulls.shuffled(texts, pool, choices.seed, chat=choices.batching.chat_template)
    few, few_shuffled = (nulls.spaced(each, scale_effects.TEXTS) for each in (texts, shuffled))
    scales, without, notes = _scales(loaded, few, few_shuffled, choices)
    noise, without_images = _image_noise(vision, len(kept.sources))
    return Material(
        sampling.lengths,
        sampling.weights,
        layers,
        {view: _agreement(report, known, view) for view in _VIEWS},
        _shuffled(loaded, shuffled, choices, known),
        images=noise,
        without={**without, **without_images},
        notes=notes,
        **scales,
    )


def _run(session: Session, inputs: Inputs, choices: _Choices, kept: KeptTokens) -> Report:
    recorder = Recorder(session.loaded.model, layers=choices.layers, exclude=choices.exclude)
    batches = session.batches(inputs, choices.batching)
    return session.measure(recorder, batches, RunContext(sample=kept))


def _require_two(kept: KeptTokens) -> None:
    if len(kept.sources) < 2:
        raise TextError(f"{counted(len(kept.sources), 'text')} to compare; expected at least two; give more")
    special = set(kept.special.tolist())
    worded = sum(not special.issuperset(kept.ids[source]) for source in kept.sources)
    if worded < 2:
        raise TextError(
            f"{worded} texts with a token that is not special; expected at least two to compare; give more"
        )


def _special(loaded: Loaded) -> set[int]:
    tokenizer: Any = loaded.tokenizer
    start = getattr(getattr(loaded.model, "config", None), "decoder_start_token_id", None)
    return special_ids(tokenizer) | ({start} if isinstance(start, int) else set())


def _sampling(kept: KeptTokens, seed: int) -> Sampling:
    return Sampling.of(torch.tensor([len(flags) for flags in kept.counted()]), seed)


def _rows(report: Report, kept: KeptTokens, names: Iterable[str]) -> Iterator[LayerRows]:
    """Yield the tokens at each of the layers where they are known, and release them."""
    for name in names:
        place, eps = kept.layers.pop(name, None), report.layers[name].eps
        rows = place.rows(name, 0.0 if math.isnan(eps) else eps) if isinstance(place, TokensAtLayer) else None
        if rows is not None:
            yield rows


def _shuffled(
    loaded: Loaded, texts: Sequence[str], choices: _Choices, names: Iterable[str]
) -> dict[str, LayerMeasures]:
    """Measure texts of shuffled words, by layer."""
    kept = KeptTokens(len(texts), choices.memory, choices.seed, _special(loaded))
    whole = replace(choices, batching=replace(choices.batching, limit=None))
    report = _run(Session(loaded), Inputs(texts), whole, kept)
    sampling = _sampling(kept, choices.seed)
    return {rows.name: measured(rows, sampling, null=True) for rows in _rows(report, kept, names)}


def _scales(
    loaded: Loaded, texts: Sequence[str], shuffled: Sequence[str], choices: _Choices
) -> tuple[dict[str, ScaleEffects], dict[str, str], list[str]]:
    """Measure other scales in the model, on both texts, and in its untrained copy.

    Also say why this cannot be tested, by claim, and note a missing copy, which is only shown.
    """
    if len(texts) < _LEAST_TEXTS:
        return {}, {"4": f"it needs {_LEAST_TEXTS} texts"}, []
    longest = min(scale_effects.LONGEST, choices.batching.max_length or scale_effects.LONGEST)
    batching = replace(choices.batching, limit=None, max_length=longest, special_tokens="exclude")

    def effects(model: Loaded, given: Sequence[str]) -> ScaleEffects:
        recorder = Recorder(model.model, layers=choices.layers, exclude=choices.exclude)
        report = Session(model).measure(recorder, text_batches(model, given, batching))
        return scale_effects.scale_effects(model, given, batching, report)

    try:
        scales = {"scales": effects(loaded, texts), "shuffled_scales": effects(loaded, shuffled)}
    except (RunError, TextError, UsageError) as error:  # Such as a model that returns no hidden states.
        return {}, {"4": str(error)}, []
    copy = nulls.untrained(loaded, choices.seed)
    if isinstance(copy, str):
        return scales, {}, [f"claim 4 is without its line on an untrained copy: {copy}"]
    # Shown, and subtracted nowhere: few texts are enough.
    return {**scales, "untrained": effects(copy, nulls.spaced(texts, _LEAST_TEXTS))}, {}, []


def _image_noise(vision: ImageMoments | None, texts: int) -> tuple[dict[str, ExpectedNoise], dict[str, str]]:
    """Return the noise at each layer of a vision model; say why claims 5 and 6 cannot be tested."""
    if vision is None:
        got = "it needs a vision model: --beside MODEL --image FILE..."
    elif texts < _TEXTS_BESIDE:
        got = f"it needs {_TEXTS_BESIDE} texts: from fewer, intervals of this noise cover too rarely"
    elif min(len(samples.mean) for samples in vision.layers.values()) < _IMAGES_BESIDE:
        got = f"it needs {_IMAGES_BESIDE} images"
    else:
        noise = {
            name: ExpectedNoise.of_samples(samples, replicates(groups_of(len(samples.mean))))
            for name, samples in vision.layers.items()
        }
        return noise, {}
    return {}, dict.fromkeys(("5", "6"), got)


def _agreement(report: Report, names: Sequence[str], view: str) -> float:
    values = [(report.layers[name].agreement or {}).get(view, math.nan) for name in names]
    finite = [value for value in values if not math.isnan(value)]
    return median(finite) if finite else math.nan


def _pooled(kept: KeptTokens, tokenizer: Any) -> Pooled:
    # From all parts of the corpus: its beginning may be of one kind.
    spaced = np.linspace(0, len(kept.sources) - 1, min(SHOWN_TEXTS, len(kept.sources)))
    ids = [kept.ids[kept.sources[int(i)]][:SHOWN_TOKENS] for i in spaced]
    return Pooled(tuple(tuple(map(str, tokenizer.convert_ids_to_tokens(text))) for text in ids))


def _notes(report: Report, kept: KeptTokens, lost: int, repeated: int) -> list[str]:
    notes = []
    if repeated:
        notes.append(
            f"{counted(repeated, 'text')} that repeat an earlier one exactly were left out: repeats are no "
            "evidence of their own"
        )
    if kept.limited and len(kept.sources) < report.run.texts:
        notes.append(
            f"the tokens of {len(kept.sources):,} texts are kept, not of {kept.samples:,}: more would take "
            f"over the {kept.memory:,} bytes of table memory"
        )
    if lost:
        have = "has" if lost == 1 else "have"
        notes.append(
            f"{counted(lost, 'layer')} {have} no part in this: their rows or their output are not known"
        )
    return notes
