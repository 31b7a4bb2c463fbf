"""Memory runs out while a batch is counted: the batch is undone and runs in parts, or the run ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import normscope
from normscope.capture.counters import Tally
from normscope.capture.text_sample import LayerTexts
from normscope.data.batching import Batching
from normscope.engine.checkpoint import Checkpoint
from normscope.errors import CountingError, RunError
from normscope.statistics.batch_summary import BatchSums
from normscope.statistics.pending_sums import PendingSums, PivotSums
from tests.data.test_batching import WORDS, encoder
from tests.support import models
from tests.support.command import error_of
from tests.support.reports_alike import OWN, furthest

TOKENIZER = encoder()
# The shortest come first, so that where they come as given each batch is the largest yet.
TEXTS = [" ".join(WORDS[5 + (i * 7 + j) % (len(WORDS) - 5)] for j in range(1 + i // 2)) for i in range(24)]
WHOLE = Batching(8, 24)
GIVEN = Batching(8, 24, order="given")
ALONE = Batching(1, 24)
CPU = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
ERRORS: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError(CPU),
    MemoryError,
]


@pytest.fixture(scope="module")
def model() -> Any:
    return models.bert(pad_token_id=0).double()


class Lacking:
    """Makes a method run out of memory if `fails` is true for the number of the call and its rows.

    The default method is called for every batch, whether operators or compiled loops have summed it.

    It fails after its work is done, unless `first`: everything is counted, and the caller does not know.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        fails: Callable[[int, int], bool],
        *,
        method: tuple[Any, str] = (PendingSums, "add"),
        error: Callable[[], Exception] = ERRORS[0],
        first: bool = False,
    ) -> None:
        owner, name = method
        own = getattr(owner, name)
        self.calls = self.failures = 0

        def lacking(*arguments: Any) -> Any:
            self.calls += 1
            failing = fails(self.calls, _rows(arguments))
            made = None if failing and first else own(*arguments)
            if failing:
                self.failures += 1
                raise error()
            return made

        patch.setattr(owner, name, lacking)


def _rows(arguments: tuple[Any, ...]) -> int:
    return next((len(value.token) for value in arguments if isinstance(value, BatchSums)), 0)


def more_than(rows: int) -> Callable[[int, int], bool]:
    return lambda _call, have: have > rows


def inspected(model: Any, batching: Batching, **options: Any) -> normscope.Report:
    return normscope.inspect(model, iter(TEXTS), tokenizer=TOKENIZER, batching=batching, **options)


def same(one: Any, other: Any) -> bool:
    left, right = one.to_dict(), other.to_dict()
    del left["warnings"], right["warnings"]
    return furthest(left, right, (*OWN, "batch_tokens")) < 1e-9


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("first", [False, True])
def test_every_token_is_counted_once(
    model: Any, monkeypatch: pytest.MonkeyPatch, error: Any, first: bool
) -> None:
    want = inspected(model, ALONE, words=True)
    lacking = Lacking(monkeypatch, more_than(60), error=error, first=first)
    got = inspected(model, WHOLE, words=True)
    assert lacking.failures == 2, "192 rows, 96, 48"
    assert same(got, want)
    (warning,) = (each for each in got.warnings if "memory" in each)
    assert warning.startswith(
        "memory did not hold a batch of 8 texts of 16 tokens: it was run in parts, and "
    )


@pytest.mark.parametrize(
    ("method", "call"),
    [((PivotSums, "add"), 1), ((PivotSums, "add"), 3), ((PendingSums, "add"), 2), ((Tally, "add"), 1)],
)
def test_wherever_it_fails(
    model: Any, monkeypatch: pytest.MonkeyPatch, method: tuple[Any, str], call: int
) -> None:
    want = inspected(model, ALONE)
    lacking = Lacking(monkeypatch, lambda number, _rows: number == call, method=method)
    got = inspected(model, WHOLE)
    assert lacking.failures == 1
    assert same(got, want)


@pytest.mark.parametrize("per_call", [False, True])
def test_a_layer_that_is_called_several_times(monkeypatch: pytest.MonkeyPatch, per_call: bool) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=16, intermediate_size=24, num_attention_heads=2
    )
    model = models.spread_norms(transformers.AlbertModel(config)).double()
    want = inspected(model, ALONE, per_call=per_call)
    lacking = Lacking(monkeypatch, lambda call, _rows: call in (7, 20))
    got = inspected(model, WHOLE, per_call=per_call)
    assert lacking.failures == 2
    assert same(got, want)


def test_a_model_and_its_hooks_may_both_lack_memory(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    want = inspected(model, ALONE)
    lacking = Lacking(monkeypatch, more_than(40))

    def check(_module: Any, args: tuple[Any, ...]) -> None:
        if args[0].shape[0] * args[0].shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.bert.encoder.layer[1].register_forward_pre_hook(check)
    got = inspected(model, WHOLE)
    handle.remove()
    assert lacking.failures
    assert same(got, want)


def test_kept_texts_are_kept_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(batching: Batching) -> Any:
        drawing = normscope.Drawing(samples=20, sizes=(2, 4))
        return normscope.batch_noise(model, TEXTS, tokenizer=TOKENIZER, batching=batching, drawing=drawing)

    want = drawn(ALONE)
    lacking = Lacking(monkeypatch, lambda call, _rows: call == 3, method=(LayerTexts, "observe"))
    got = drawn(WHOLE)
    assert lacking.failures == 1
    assert same(got, want)


def test_kept_tokens_are_kept_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(batching: Batching) -> Any:
        return normscope.why(model, TEXTS, tokenizer=TOKENIZER, batching=batching, samples=20)

    want = told(ALONE)
    lacking = Lacking(monkeypatch, lambda call, _rows: call == 3)
    got = told(WHOLE)
    assert lacking.failures
    assert same(got, want)


def test_a_calibration_counts_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(batching: Batching) -> dict[str, torch.Tensor]:
        calibration = normscope.calibrate(model, TEXTS, tokenizer=TOKENIZER, batching=batching)
        return {f"{n} {k}": v for n, layer in calibration.layers.items() for k, v in layer.known().items()}

    want = known(ALONE)
    Lacking(monkeypatch, more_than(60))
    got = known(WHOLE)
    assert want.keys() == got.keys()
    for name, values in want.items():
        torch.testing.assert_close(got[name], values, rtol=1e-9, atol=1e-12)


def test_where_copies_fit_each_larger_batch_can_be_taken_back(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = inspected(model, Batching(1, 24, order="given"))
    lacking = Lacking(monkeypatch, more_than(60))
    monkeypatch.setattr("normscope.engine.runner.copies_fit", lambda _device: True)
    got = inspected(model, GIVEN)
    assert lacking.failures >= 1
    assert same(got, want)


@pytest.mark.parametrize("size", [1, 3])
def test_otherwise_the_run_ends_and_goes_on_from_its_last_whole_batch(
    model: Any, tmp_path: Path, size: int
) -> None:
    want = inspected(model, Batching(1, 24, order="given"))
    path = tmp_path / "c"
    with pytest.MonkeyPatch.context() as patch:
        Lacking(patch, more_than(60))
        with pytest.raises(CountingError, match=r"^out of memory where a batch is counted \(CUDA .*\); exp"):
            inspected(model, GIVEN, checkpoint=Checkpoint(path, 0.0))
        small = Batching(size, 24, order="given")
        got = inspected(model, small, checkpoint=Checkpoint(path, 0.0, resume=True))
    assert same(got, want)


def test_one_text_that_cannot_be_counted_is_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Lacking(monkeypatch, more_than(0))
    with pytest.raises(RunError, match=r"try a smaller --table-memory, --batch-size or --max-length$"):
        inspected(model, WHOLE)
    assert lacking.failures == 4, "of 8 texts, 4, 2, 1"


def test_the_command_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Lacking(monkeypatch, more_than(0), error=ERRORS[1])
    said = error_of(["inspect", "demo", "a text", "another", "--checkpoint", tmp_path / "c"])
    assert said.startswith("out of memory where a batch is counted ([enforce fail at alloc_cpu.cpp:117]")
    assert not (tmp_path / "c").exists()
