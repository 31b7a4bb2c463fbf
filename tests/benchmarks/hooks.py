"""What the hooks add to a forward pass: length-sorted batches of real text, bare and hooked in turn."""

import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import transformers

import normscope
from normscope.capture import fused_sums as one_pass
from normscope.data.batching import Batches
from tests.support import models

ROUNDS = 7


def in_one_pass(run: Callable[[], list[float]]) -> Callable[[], list[float]]:
    """Make `run` take calls in one pass; it has nothing to say where numba is not installed."""
    return lambda: _after(0, run) if find_spec("numba") else []


def by_operators(run: Callable[[], list[float]]) -> Callable[[], list[float]]:
    """Make `run` go by PyTorch's operators, as where numba is not installed."""
    return lambda: _after(sys.maxsize, run)


def _after(elements: int, run: Callable[[], list[float]]) -> list[float]:
    before, one_pass.AFTER = one_pass.AFTER, elements
    try:
        return run()
    finally:
        one_pass.AFTER = before


def minilm(threads: int) -> list[float]:
    """Return hooked over bare time of MiniLM, one ratio a round."""
    model, tokenizer = models.demo()
    return ratios(model, batches(tokenizer, texts=256, size=32), threads)


def bert_base(threads: int) -> list[float]:
    """Return hooked over bare time of a random BERT-base, one ratio a round."""
    _, tokenizer = models.demo()
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).eval()  # type: ignore[no-untyped-call]
    return ratios(model, batches(tokenizer, texts=64, size=16), threads)


def milliseconds(module: str, function: str) -> Callable[[], list[float]]:
    """Return what measures the time of one call of a function inside the hooks of MiniLM, one thread."""

    def run() -> list[float]:
        owner, _, name = function.rpartition(".")
        place = import_module(module)
        place = getattr(place, owner) if owner else place
        took, original = [], getattr(place, name)

        def timed(*arguments: Any) -> Any:
            begun = time.process_time()
            result = original(*arguments)
            took.append(time.process_time() - begun)
            return result

        model, tokenizer = models.demo()
        inputs = batches(tokenizer, texts=256, size=32)
        setattr(place, name, timed)
        try:
            times(model, inputs, threads=1)
        finally:
            setattr(place, name, original)
        # The first round warms up.
        calls = len(took) // (ROUNDS + 1)
        return [
            1e3 * statistics.mean(took[start : start + calls]) for start in range(calls, len(took), calls)
        ]

    return run


def batches(tokenizer: Any, texts: int, size: int) -> list[dict[str, Any]]:
    batching = normscope.Batching(batch_size=size)
    return [batch.inputs for batch in Batches(models.prose(texts), tokenizer, batching, max_length=128)]


def ratios(model: Any, inputs: list[dict[str, Any]], threads: int) -> list[float]:
    """Return hooked time over bare time of all batches, one ratio a round."""
    return [hooked / bare for hooked, bare in times(model, inputs, threads)]


def times(model: Any, inputs: list[dict[str, Any]], threads: int) -> list[tuple[float, float]]:
    """Return the seconds of all batches, hooked and bare, of each round.

    With several threads they are by the clock: threads that wait for work take processor time, too.
    """
    torch.set_num_threads(threads)
    clock = seconds if threads == 1 else wall_seconds
    watcher = normscope.watch(model)

    def bare() -> None:
        for batch in inputs:
            model(**batch)

    def hooked() -> None:
        with watcher:
            bare()

    with torch.no_grad():
        bare()
        hooked()
        return [(clock(hooked), clock(bare)) for _ in range(ROUNDS)]


def seconds(run: Callable[[], None]) -> float:
    """Return the processor time of a run, which other users of the machine disturb least."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def wall_seconds(run: Callable[[], None]) -> float:
    """Return the seconds of a run by the clock."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
