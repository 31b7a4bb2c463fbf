"""What the hooks add to a forward pass: length-sorted batches of real text, bare and hooked in turn."""

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import normscope
from normscope.batches import Batches
from tests import models

ROUNDS = 7


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
