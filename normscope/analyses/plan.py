"""Estimates memory, tokens, arithmetic operations and time of a run from one timed batch."""

import math
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from normscope._version import __version__
from normscope.capture.recorder import Recorder
from normscope.data.batch import Batch
from normscope.data.batching import Batches, Batching
from normscope.data.corpus import no_text
from normscope.engine.forward import Forward
from normscope.engine.massive_tokens import MassiveTokens
from normscope.engine.runner import Runner
from normscope.engine.session import Session, text_batches
from normscope.models.loading import Loaded
from normscope.results.plan import Corpus, RunPlan, Tables, TimedBatch
from normscope.results.provenance import provenance_now
from normscope.statistics.position_bins import MEMORY

# The maximum number of texts that are tokenized.
SAMPLE = 4096


def dry_run(
    loaded: Loaded,
    texts: Iterable[str],
    *,
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_call: bool = False,
    table_memory: int = MEMORY,
) -> RunPlan:
    """Estimate the memory and time that `inspect` with these arguments takes.

    Tokenizes the first 4,096 texts; if there are more, extrapolates from the share of the files that
    these texts take. Runs one batch of middle length. Raises what `inspect` raises.
    """
    recorder = Recorder(
        loaded.model, layers=layers, exclude=exclude, per_call=per_call, table_memory=table_memory
    )
    session = Session(loaded)
    with session.watching(recorder):
        # Massive tokens are looked for in the timed batch alone: they are too few to change an estimate.
        sample = _sample(session, recorder, iter(texts), replace(batching, drop_massive=False))
        massive = MassiveTokens(session.forward, loaded.tokenizer) if batching.drop_massive else None
        timed, seconds = _time_batch(sample, recorder, session.forward, massive)
    tables = recorder.tables
    slots = sum(batch.mask.numel() for batch in sample.batches) * sample.scale
    return RunPlan(
        __version__,
        session.describe(),
        len(recorder.captures),
        Tables(tables.bytes, tables.rows, tables.positions, tables.bins.exact if tables.bins else None),
        sample.corpus(),
        TimedBatch(len(timed.sources), int(timed.valid.sum()), seconds),
        _flops(session.forward, timed.part(slice(0, 1))),
        seconds / timed.mask.numel() * slots,
        provenance_now(loaded.commit),
    )


@dataclass(frozen=True)
class _Sample:
    """The batches of the first texts.

    The corpus has `scale` times as many texts, NaN if unknown. If `complete`, the sample is the corpus.
    """

    source: Batches
    batches: list[Batch]
    complete: bool
    scale: float

    def corpus(self) -> Corpus:
        """Return the number of texts and tokens of the corpus."""
        if math.isnan(self.scale):
            return Corpus(None, None, False)
        tokens = sum(int(batch.valid.sum()) for batch in self.batches)
        return Corpus(round(self.source.texts * self.scale), round(tokens * self.scale), self.complete)


def _sample(session: Session, recorder: Recorder, texts: Iterator[str], batching: Batching) -> _Sample:
    first = list(islice(texts, min(SAMPLE, batching.limit or SAMPLE)))
    source = text_batches(session.loaded, first, batching)
    session.prepare(recorder, source)
    batches = list(source)
    if not batches:
        raise no_text(source.skipped)
    if len(first) < SAMPLE or batching.limit == len(first) or not list(islice(texts, 1)):
        return _Sample(source, batches, complete=True, scale=1.0)
    remaining = operator.length_hint(texts)
    total = min(len(first) + 1 + remaining, batching.limit or math.inf)
    return _Sample(source, batches, complete=False, scale=total / len(first) if remaining else math.nan)


def _time_batch(
    sample: _Sample, recorder: Recorder, forward: Forward, massive: MassiveTokens | None
) -> tuple[Batch, float]:
    """Time the batch of middle length. One of its texts runs first, so that one-time costs are not timed."""
    runner = Runner(recorder, forward, None)
    batch = sample.batches[len(sample.batches) // 2]
    screen = massive.screen if massive is not None else lambda batch: batch
    runner.run(screen(batch.part(slice(0, 1))))
    begun = time.perf_counter()
    runner.run(screen(batch))
    if forward.device.type == "cuda":
        torch.cuda.synchronize(forward.device)
    return batch, time.perf_counter() - begun


def _flops(forward: Forward, batch: Batch) -> float:
    """Return the operations of matrix products per token slot; a multiply-add counts as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(batch.inputs)
    return float(counter.get_total_flops()) / batch.mask.numel()
