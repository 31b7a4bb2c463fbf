"""Estimates memory, tokens, work and time of a run from one timed batch."""

import math
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from normscope._version import __version__
from normscope.capture.watched_model import describe
from normscope.capture.watcher import Watcher, watch
from normscope.data.batching import Batch, Batches, Batching
from normscope.data.corpus import no_text
from normscope.engine.forward import Forward
from normscope.engine.loop import measuring, probe, text_batches
from normscope.engine.runner import Runner
from normscope.models.loading import Loaded
from normscope.results.plan import Corpus, RunPlan, Tables, TimedBatch
from normscope.statistics.position_bins import MEMORY, TablePlan

# The maximum number of texts that are tokenised.
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
    """Say what `inspect` with these arguments would take.

    The first 4,096 texts are tokenised; of more, their numbers are estimated from how much of the files
    they are. One batch, of middling length, is run. Raises what `inspect` raises.
    """
    watcher = watch(
        loaded.model, layers=layers, exclude=exclude, per_call=per_call, table_memory=table_memory
    )
    forward = Forward(loaded.model)
    with measuring(loaded, watcher):
        _, batching = probe(loaded, watcher, forward, batching)
        found = _sampled(loaded, iter(texts), batching)
        tables = watcher.plan_tables(found.batches.max_length)
        timed, seconds = _timed(found, watcher, forward, batching)
    slots = sum(batch.mask.numel() for batch in found.made) * found.scale
    return RunPlan(
        __version__,
        replace(describe(loaded.model, loaded.id), revision=loaded.revision, commit=loaded.commit),
        len(watcher.captures),
        _tables(tables),
        found.corpus(),
        TimedBatch(len(timed.sources), int(timed.valid.sum()), seconds),
        _flops(forward, timed.part(slice(0, 1))),
        seconds / timed.mask.numel() * slots,
    )


@dataclass(frozen=True)
class _Sample:
    """The batches `made` of a sample of texts, and how many times as many are to come, NaN where unknown."""

    batches: Batches
    made: list[Batch]
    counted: bool
    scale: float

    def corpus(self) -> Corpus:
        """Return how many texts and tokens there are."""
        if math.isnan(self.scale):
            return Corpus(None, None, False)
        tokens = sum(int(batch.valid.sum()) for batch in self.made)
        return Corpus(round(self.batches.texts * self.scale), round(tokens * self.scale), self.counted)


def _sampled(loaded: Loaded, texts: Iterator[str], batching: Batching) -> _Sample:
    sample = list(islice(texts, min(SAMPLE, batching.limit or SAMPLE)))
    batches = text_batches(loaded, sample, batching)
    made = list(batches)
    if not made:
        raise no_text(batches.skipped)
    whole = len(sample) < SAMPLE or batching.limit == len(sample) or not list(islice(texts, 1))
    left = 0 if whole else operator.length_hint(texts)
    most = min(len(sample) + 1 + left, batching.limit or math.inf)
    scale = 1.0 if whole else most / len(sample) if left else math.nan
    return _Sample(batches, made, whole, scale)


def _timed(found: _Sample, watcher: Watcher, forward: Forward, batching: Batching) -> tuple[Batch, float]:
    """Time the batch of middle length. One of its texts runs first, so that one-time costs are not timed."""
    runner, batch = Runner(watcher, forward, batching, None), found.made[len(found.made) // 2]
    runner.run(batch.part(slice(0, 1)), found.batches)
    begun = time.perf_counter()
    runner.run(batch, found.batches)
    if forward.device.type == "cuda":
        torch.cuda.synchronize(forward.device)
    return batch, time.perf_counter() - begun


def _flops(forward: Forward, batch: Batch) -> float:
    """Return the operations of matrix products per token slot; a multiply-add counts as two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(batch.inputs)
    return float(counter.get_total_flops()) / batch.mask.numel()


def _tables(plan: TablePlan) -> Tables:
    return Tables(plan.bytes, plan.rows, plan.positions, plan.bins.exact if plan.bins else None)
