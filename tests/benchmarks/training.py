"""What windows add to a training on the CPU: bare and measured steps in turn, one thread."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import transformers

import normscope
from tests.benchmarks.hooks import batches
from tests.support import models

ROUNDS = 15


def minilm() -> list[float]:
    model, tokenizer = models.demo()
    return ratios(model.train(), batches(tokenizer, texts=32, size=32)[0])


def bert_base() -> list[float]:
    _, tokenizer = models.demo()
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).train()
    return ratios(model, batches(tokenizer, texts=16, size=16)[0])


def of_every_100(run: Callable[[], list[float]]) -> Callable[[], list[float]]:
    """Return the ratio of a training of which every 100th step is measured."""
    return lambda: [1 + (ratio - 1) / 100 for ratio in run()]


def ratios(model: Any, batch: dict[str, Any]) -> list[float]:
    """Return measured time over bare time of a step: forward, backward, optimizer, and the scalars."""
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    watcher = normscope.watch(model)

    def forward_and_backward() -> None:
        model(**batch).last_hidden_state.square().mean().backward()

    def finish() -> None:
        optimizer.step()
        optimizer.zero_grad()

    def bare() -> None:
        forward_and_backward()
        finish()

    def measured() -> None:
        with watcher.window() as window:
            forward_and_backward()
        finish()
        window.scalars()

    # The first steps settle the formulas of the layers.
    for step in (bare, measured, measured):
        step()
    # Bare steps stand before and after each measured one, so that a slower machine slows both.
    pairs = []
    for _ in range(ROUNDS):
        times = [_seconds(step) for step in (bare, measured, bare)]
        pairs.append(times[1] / median((times[0], times[2])))
    return pairs


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
