"""Held-out batches that do not fit in memory: they run in parts, with the numbers of whole batches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import normscope
from normscope import Batching, Swapping
from normscope.analyses.swap.batch_statistics import BatchStatistics
from normscope.analyses.swap.options import BATCH, BATCHNORM, FITTED, FROZEN, IDENTITY, SCALE_SEQUENCE
from normscope.data.batch import Batch
from normscope.engine.batch_splitting import cut
from normscope.errors import OutOfMemoryError, RunError
from normscope.results.swap import SwapReport
from tests.data.test_batching import WORDS, encoder
from tests.support import models
from tests.support.reports_alike import furthest

TOKENIZER = encoder()
TEXTS = [
    " ".join(WORDS[5 + (i * 7 + j) % (len(WORDS) - 5)] for j in range(2 + i * 5 % 11)) for i in range(24)
]
WHOLE = Batching(12, 24)
HOLDS = 30

Fails = Callable[[int, torch.Tensor], bool]


@pytest.fixture(scope="module")
def model() -> Any:
    """A small random GPT-2 in float64."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=100, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return models.spread_norms(transformers.GPT2LMHeadModel(config)).double().eval()


@contextmanager
def lacking(module: nn.Module, fails: Fails) -> Iterator[list[tuple[int, int]]]:
    """Let a module run out of memory if `fails` is true of the number of its call and its input."""
    seen: list[tuple[int, int]] = []

    def check(_module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if fails(len(seen), x):
            seen.append((x.shape[0], -1))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        seen.append((x.shape[0], x.shape[1]))

    handle = module.register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


def too_large(_call: int, x: torch.Tensor) -> bool:
    return x.shape[0] * x.shape[1] > HOLDS


def swapped(model: Any, swapping: Swapping, batching: Batching = WHOLE) -> SwapReport:
    return normscope.swap(model, TEXTS, tokenizer=TOKENIZER, batching=batching, swapping=swapping)


def numbers(report: SwapReport) -> dict[str, Any]:
    run = replace(report.run, seconds=0.0)
    return replace(report, warnings=(), run=run, provenance=None).to_dict()


KINDS = [
    Swapping(BATCHNORM, cumulative=True, recalibrate=True),
    Swapping(FITTED, fold=True),
    Swapping(BATCH, cumulative=True),
    Swapping(FROZEN),
    Swapping(IDENTITY),
    Swapping(SCALE_SEQUENCE),
]


@pytest.mark.parametrize("swapping", KINDS, ids=lambda swapping: swapping.kind)
def test_the_numbers_are_those_of_whole_batches(model: Any, swapping: Swapping) -> None:
    want = swapped(model, swapping)
    with lacking(model.transformer.h[1], too_large) as seen:
        got = swapped(model, swapping)
    failed = [texts for texts, tokens in seen if tokens < 0]
    assert max(texts for texts, _ in seen) == 12
    assert len(set(failed)) > 1, "parts of parts"
    assert furthest(numbers(want), numbers(got)) < 1e-9
    memory = [warning for warning in got.warnings if "memory" in warning]
    assert len(memory) == 1, "calibrating and measuring say it together"
    assert memory[0].startswith("memory did not hold a batch of 12 texts of ")
    assert memory[0].endswith("; no number depends on that")


def test_a_batch_that_once_failed_is_not_tried_whole_again(model: Any) -> None:
    with lacking(model.transformer.h[1], too_large) as seen:
        swapped(model, Swapping(BATCHNORM))
    tries = [texts for texts, tokens in seen if texts == 12]
    assert len(tries) == 2, "once on its way to be calibrated on, once held out"


@pytest.mark.parametrize("kind", [BATCHNORM, BATCH])
@pytest.mark.parametrize("call", [2, 3, 5])
def test_whichever_run_lacks_memory(model: Any, kind: str, call: int) -> None:
    """Earlier calls are the calibration's two batches, then the untouched model's, then the variants'."""
    want = swapped(model, Swapping(kind))
    shown: list[normscope.Progress] = []
    with lacking(model.transformer.ln_f, lambda number, x: number == call + 2 and len(x) > 1) as seen:
        got = normscope.swap(
            model,
            TEXTS,
            tokenizer=TOKENIZER,
            batching=WHOLE,
            swapping=Swapping(kind),
            progress=shown.append,
        )
    assert [texts for texts, tokens in seen if tokens < 0] == [12]
    assert furthest(numbers(want), numbers(got)) < 1e-9
    (memory,) = (warning for warning in got.warnings if "memory" in warning)
    assert "it and later ones were run in parts" in memory
    runs = [step for step in shown if step.stage == "run"]
    assert runs[-1].texts == runs[-1].expected_texts


@pytest.mark.parametrize("kind", [BATCHNORM, BATCH])
def test_one_text_that_is_too_much_is_an_error(model: Any, kind: str) -> None:
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with (
        lacking(model.transformer.h[1], lambda number, _x: number > 4),
        pytest.raises(OutOfMemoryError, match=r"^out of memory \(.*\); try a smaller --batch-size"),
    ):
        swapped(model, Swapping(kind))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_a_hook_that_replaces_may_lack_memory_too(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from normscope.analyses.swap.replacement import Replacement

    want = swapped(model, Swapping(BATCHNORM))
    own, calls = Replacement.__call__, 0

    def tight(self: Replacement, given: torch.Tensor, *options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
            )
        return own(self, given, *options)

    monkeypatch.setattr(Replacement, "__call__", tight)
    got = swapped(model, Swapping(BATCHNORM))
    assert calls > 3
    assert furthest(numbers(want), numbers(got)) < 1e-9


def test_parts_have_every_text_once_in_order() -> None:
    mask = torch.arange(6) < torch.tensor([6, 5, 3, 3, 1])[:, None]
    batch = Batch({"input_ids": mask.long()}, mask, mask, (4, 0, 7, 2, 9), mask)
    for number in range(1, 8):
        parts = cut(batch, number)
        assert [source for part in parts for source in part.sources] == [4, 0, 7, 2, 9]
        assert len(parts) == min(number, 5)
        assert max(len(part.sources) for part in parts) - min(len(part.sources) for part in parts) <= 1
        assert sum(int(part.mask.sum()) for part in parts) == int(mask.sum())


def test_parts_that_call_different_layers_have_no_statistics_together() -> None:
    def run(*names: str) -> Callable[[], None]:
        def calls() -> None:
            for name in names:
                statistics.of(name, torch.randn(3, 2))

        return calls

    statistics = BatchStatistics()
    with pytest.raises(RunError, match="b is called in one part of a batch and not in another; expected"):
        statistics.together([run("a", "c"), run("a", "b")])
