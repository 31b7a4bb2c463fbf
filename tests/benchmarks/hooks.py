"""What the hooks add to a forward pass: length-sorted batches of real text, bare and hooked in turn."""

import sys
import time
from collections.abc import Callable
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


def minilm() -> list[float]:
    model, tokenizer = models.demo()
    return ratios(model, batches(tokenizer, texts=256, size=32))


def bert_base() -> list[float]:
    _, tokenizer = models.demo()
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).eval()  # type: ignore[no-untyped-call]
    return ratios(model, batches(tokenizer, texts=64, size=16))


def batches(tokenizer: Any, texts: int, size: int) -> list[dict[str, Any]]:
    batching = normscope.Batching(batch_size=size)
    return [batch.inputs for batch in Batches(models.prose(texts), tokenizer, batching, max_length=128)]


def ratios(model: Any, inputs: list[dict[str, Any]]) -> list[float]:
    """Return hooked time over bare time of all batches, one ratio a round; one thread."""
    torch.set_num_threads(1)
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
        return [seconds(hooked) / seconds(bare) for _ in range(ROUNDS)]


def seconds(run: Callable[[], None]) -> float:
    """Return the processor time of a run, which other users of the machine disturb least."""
    begun = time.process_time()
    run()
    return time.process_time() - begun
