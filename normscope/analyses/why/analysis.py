"""Tries the article's claims on a model and texts: one run, then the evidence."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from normscope._version import __version__
from normscope.analyses.why.evidence import LayerRows
from normscope.analyses.why.findings import SIZE, Material, findings
from normscope.analyses.why.token_sample import KeptTokens, TokensAtLayer
from normscope.capture.watcher import watch
from normscope.data.batch_sampling import Drawing, plans
from normscope.data.batching import Batching, require_positive, require_seed
from normscope.data.media_files import Inputs
from normscope.data.tokenization import special_ids
from normscope.engine.loop import RunContext, measure, prepare_model
from normscope.engine.progress import Clock, Progress
from normscope.errors import TextError
from normscope.escaping import counted
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.inspect import Report
from normscope.results.why import Pooled, WhyReport
from normscope.statistics.position_bins import MEMORY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_TEXTS, SHOWN_TOKENS = 6, 16
# With fewer batches an interval says nothing.
_LEAST_BATCHES = 4


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
    progress: Callable[[Progress], None] | None = None,
) -> WhyReport:
    """Try the article's claims on why NLP uses LayerNorm and not BatchNorm on this model and these texts.

    The texts are run once. The tokens of at most `samples` of them, by chance, are kept at every layer,
    and no more than fit `table_memory` bytes; the numbers and their intervals are taken from those.
    Special tokens are run, and left out where a claim says so. All else is as for `inspect`.

    Raises what `inspect` raises, and TextError when there are not two texts.
    """
    require_positive("samples", samples)
    require_seed(seed)
    given = Inputs(texts)
    clock = Clock(progress)
    loaded = prepare_model(model, given.kinds, clock, loading, tokenizer)
    kept = KeptTokens(samples, table_memory, seed, _special(loaded))
    watcher = watch(loaded.model, layers=layers, exclude=exclude)
    watcher.name_words()
    report = measure(loaded, given, batching, watcher, clock, RunContext(sample=kept))
    if len(kept.sources) < 2:
        raise TextError(f"{len(kept.sources)} text to compare; expected at least two; give more")
    special = _special(loaded)
    worded = sum(not special.issuperset(kept.ids[source]) for source in kept.sources)
    if worded < 2:
        raise TextError(
            f"{worded} texts with a token that is not special; expected at least two to compare; give more"
        )
    clock.show("analysis", report.run.texts, report.run.tokens)
    known = [rows for name in report.layers if (rows := _rows(report, kept, name)) is not None]
    found = findings(report.model.id, _material(report, kept, known, seed))
    return WhyReport(
        __version__,
        report.model,
        replace(report.run, seconds=clock.seconds()),
        len(kept.sources),
        seed,
        found,
        _pooled(kept, loaded.tokenizer),
        (*report.warnings, *_notes(report, kept, known)),
    )


def _special(loaded: Loaded) -> set[int]:
    tokenizer: Any = loaded.tokenizer
    start = getattr(getattr(loaded.model, "config", None), "decoder_start_token_id", None)
    return special_ids(tokenizer) | ({start} if isinstance(start, int) else set())


def _rows(report: Report, kept: KeptTokens, name: str) -> LayerRows | None:
    layer, place = report.layers[name], kept.layer(name)
    if not isinstance(place, TokensAtLayer) or layer.position is None or layer.own_output is None:
        return None
    return place.rows(name, 0.0 if math.isnan(layer.eps) else layer.eps)


def _material(report: Report, kept: KeptTokens, layers: Sequence[LayerRows], seed: int) -> Material:
    counted = kept.counted()
    drawn = plans(Drawing(sizes=(SIZE,), draws=1, seed=seed), kept.sources, [len(flags) for flags in counted])
    batches = {
        plan.order: plan for plan in drawn if plan.order != "given" and len(plan.texts) >= _LEAST_BATCHES
    }
    own = {view: _agreement(report, [rows.name for rows in layers], view) for view in _VIEWS}
    return Material(layers, counted, batches, own, seed)


_VIEWS = ("feature", "position", "sequence")


def _agreement(report: Report, names: Sequence[str], view: str) -> float:
    found = [(report.layers[name].agreement or {}).get(view, math.nan) for name in names]
    known = [value for value in found if not math.isnan(value)]
    return median(known) if known else math.nan


def _pooled(kept: KeptTokens, tokenizer: Any) -> Pooled:
    # From all parts of the corpus: its beginning may be of one kind.
    spaced = np.linspace(0, len(kept.sources) - 1, min(SHOWN_TEXTS, len(kept.sources)))
    ids = [kept.ids[kept.sources[int(i)]][:SHOWN_TOKENS] for i in spaced]
    return Pooled(tuple(tuple(map(str, tokenizer.convert_ids_to_tokens(text))) for text in ids))


def _notes(report: Report, kept: KeptTokens, layers: Sequence[LayerRows]) -> list[str]:
    notes = []
    if kept.limited and len(kept.sources) < report.run.texts:
        notes.append(
            f"the tokens of {len(kept.sources):,} texts are kept, not of {kept.samples:,}: more would take "
            f"over the {kept.memory:,} bytes of table memory"
        )
    lost = len(report.layers) - len(layers)
    if lost:
        have = "has" if lost == 1 else "have"
        notes.append(
            f"{counted(lost, 'layer')} {have} no part in this: their rows or their output are not known"
        )
    return notes
