"""Batches that do not fit in memory: they run in halves, and every layer counts each token once."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.data.batch_size import AUTO_TOKENS
from normscope.data.batching import AUTO, Batches, Batching
from normscope.data.sample_sentences import SENTENCES
from normscope.errors import OutOfMemoryError, RunError, UsageError
from normscope.models.loading import Loaded
from normscope.results.inspect import Report
from tests.support import models
from tests.support.reports_alike import OWN, furthest

TEXTS = SENTENCES[:30]
HOLDS = 60


class Tight(nn.Module):
    """Layers in float64, one used twice, with memory for `holds` token slots; for twice that at first."""

    def __init__(self, holds: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(40000, 8)
        self.first, self.shared, self.last = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)
        self.holds, self.error, self.failures = holds, error, 0
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        x = self.shared(self.linear(self.first(self.embed(input_ids))))
        self._require(2 * self.holds, x)
        x = self.shared(torch.sin(self.linear(x)))
        self._require(self.holds, x)
        return self.last(x)

    def _require(self, holds: int, x: Tensor) -> None:
        if x.shape[0] * x.shape[1] > holds:
            self.failures += 1
            raise self.error()


ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError,
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.demo()[1]


def ran(holds: int, tokenizer: Any, size: Any, error: Any = ERRORS[0], **options: Any) -> tuple[Report, int]:
    model = Tight(holds, error)
    batching = Batching(batch_size=size, max_length=32)
    return normscope.inspect(model, TEXTS, tokenizer=tokenizer, batching=batching, **options), model.failures


def numbers(report: Report) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for layer in report.to_dict()["layers"]:
        parts = {name: part for name, part in layer.items() if isinstance(part, dict)}
        measured |= {f"{layer['name']}.{path}": value for path, value in flat(parts)}
        measured[f"{layer['name']}.count"] = layer["count"]
    return measured


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in flat(part, f"{path}.{key}")]
    return [(path, value)]


def with_nan(value: Any) -> list[float]:
    values = value if isinstance(value, list) else [value]
    return [math.nan if number is None else number for number in values]


def require_same(got: Report, want: Report) -> None:
    a, b = numbers(got), numbers(want)
    assert a.keys() == b.keys()
    for name, value in b.items():
        assert with_nan(a[name]) == pytest.approx(with_nan(value), rel=1e-9, abs=1e-12, nan_ok=True), name
    assert (got.run.texts, got.run.tokens) == (want.run.texts, want.run.tokens)


@pytest.mark.parametrize("per_call", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_halves_count_every_token_once(error: Any, per_call: bool, tokenizer: Any) -> None:
    want, _ = ran(10**9, tokenizer, 1, per_call=per_call)
    got, failures = ran(HOLDS, tokenizer, 30, error, per_call=per_call)
    assert failures >= 5  # Halves of halves, at two places in the model.
    require_same(got, want)
    (warning,) = (text for text in got.warnings if "memory" in text)
    assert warning.startswith("memory did not hold a batch of 30 texts of 32 tokens")


def test_later_batches_are_smaller(tokenizer: Any) -> None:
    _, failures = ran(HOLDS, tokenizer, 8)
    model = Tight(HOLDS, ERRORS[0])
    batching = Batching(batch_size=8, max_length=32)
    normscope.inspect(model, TEXTS * 4, tokenizer=tokenizer, batching=batching)
    assert model.failures <= 2 * failures


def test_auto_is_the_same_and_makes_room(tokenizer: Any) -> None:
    want, _ = ran(10**9, tokenizer, 1)
    got, failures = ran(HOLDS, tokenizer, AUTO)
    assert failures
    require_same(got, want)
    assert got.run.batch_size is None
    assert got.run.batch_tokens is not None
    assert got.run.batch_tokens < AUTO_TOKENS


def test_kept_texts_are_those_of_small_batches(tokenizer: Any) -> None:
    measured = []
    for holds, size in ((10**9, 1), (HOLDS, 30)):
        model = Tight(holds, ERRORS[0])
        batching = Batching(batch_size=size, max_length=32)
        drawing = normscope.Drawing(samples=20, sizes=(2, 4))
        report = normscope.batch_noise(model, TEXTS, tokenizer=tokenizer, batching=batching, drawing=drawing)
        measured.append([layer.sizes for layer in report.layers.values()])
    for one, other in zip(*measured, strict=True):
        assert [size.tid.mean.mean for size in one] == pytest.approx(
            [size.tid.mean.mean for size in other], rel=1e-9
        )


def test_the_tokens_that_why_keeps_are_those_of_small_batches(tokenizer: Any) -> None:
    measured, failures = [], []
    for holds, size in ((10**9, 1), (HOLDS, 30)):
        model = Tight(holds, ERRORS[0])
        batching = Batching(batch_size=size, max_length=32)
        report = normscope.why(model, TEXTS, tokenizer=tokenizer, batching=batching, samples=20)
        measured.append(report.to_dict())
        failures.append(model.failures)
    assert failures[0] == 0
    assert failures[1] >= 5
    (warning,) = (text for text in measured[1].pop("warnings") if "memory" in text)
    assert warning.startswith("memory did not hold a batch of 30 texts of 32 tokens")
    del measured[0]["warnings"]
    assert furthest(measured[0], measured[1], OWN) < 1e-9


def test_one_text_that_is_too_much_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(OutOfMemoryError, match=r"^out of memory \(.*\); try a smaller --batch-size"):
        ran(8, tokenizer, 4)


def test_a_hook_that_lacks_memory_ends_the_run(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("normscope.statistics.pending_sums.PivotSums.add", full)
    with pytest.raises(RunError, match="out of memory") as caught:
        ran(10**9, tokenizer, 4)
    assert not isinstance(caught.value, OutOfMemoryError)


def test_auto_fills_batches_to_its_tokens(tokenizer: Any) -> None:
    for order in ("length", "given"):
        batches = Batches(TEXTS * 40, tokenizer, Batching(batch_size=AUTO, order=order), max_length=64)
        shapes: list[int] = []
        sources: list[int] = []
        for batch in batches:
            shapes.append(batch.mask.numel())
            sources += batch.sources
        assert max(shapes) <= AUTO_TOKENS
        assert min(shapes[:-1]) > 0.9 * AUTO_TOKENS
        assert sorted(sources) == list(range(len(TEXTS) * 40))


def test_a_gpu_with_room_gets_larger_batches(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.1, 0.2, 0.5])
    monkeypatch.setattr("normscope.engine.runner.fullness", lambda _: next(shares, 1.0))
    model = Tight(10**9, ERRORS[0])
    texts = TEXTS * 60
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=Batching(batch_size=AUTO))
    assert report.run.batch_tokens == 4 * AUTO_TOKENS
    assert report.run.texts == len(texts)


def test_batches_do_not_grow_again_once_memory_was_full(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, tokens = [], []
    for share in (1.0, 0.0):
        monkeypatch.setattr("normscope.engine.runner.fullness", lambda _, share=share: share)
        model = Tight(HOLDS, ERRORS[0])
        report = normscope.inspect(model, TEXTS * 20, tokenizer=tokenizer, batching=Batching(AUTO, 32))
        failures.append(model.failures)
        tokens.append(report.run.batch_tokens)
    assert failures[0] == failures[1] > 0
    assert tokens[0] == tokens[1]


def test_auto_is_for_texts_alone(tokenizer: Any) -> None:
    auto = Batching(batch_size=AUTO)
    loaded = Loaded(Tight(1, ERRORS[0]), tokenizer, "x", None, None, ())  # type: ignore[arg-type]
    swapping = normscope.Swapping(kind="batchnorm-batch")
    with pytest.raises(UsageError, match="batch size is auto, which is not for batchnorm-batch"):
        normscope.swap(loaded, TEXTS, batching=auto, swapping=swapping)
    with pytest.raises(UsageError, match="batch size is 'many'"):
        Batching(batch_size="many")  # type: ignore[arg-type]
