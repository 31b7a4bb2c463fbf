"""Watching somebody else's training: nothing is changed, lost in silence, or counted that is not theirs."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import normscope
from normscope.capture.layer_capture import LayerCapture
from normscope.errors import UsageError
from tests.support import models


class InPlaceNorm(nn.Module):
    """An RMSNorm that writes over its input; at once, or from when it is told to."""

    def __init__(self, width: int = 8, *, at_once: bool = True) -> None:
        super().__init__()
        self.weight, self.in_place = nn.Parameter(torch.ones(width)), at_once

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.in_place else x.clone()
        return x.mul_(torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)).mul_(self.weight)


class ShiftingNorm(nn.Module):
    """A LayerNorm that takes the mean out of its input in place, and gives a tensor of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(x.mean(-1, keepdim=True))
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("norm", "kind"), [(InPlaceNorm(), "rmsnorm"), (ShiftingNorm(), "layernorm")])
def test_the_input_of_a_norm_in_place_is_what_it_was_before(
    norm: nn.Module, kind: str, inference: bool
) -> None:
    inputs = [6.3 * torch.randn(3, 5, 8) + 1 for _ in range(4)]
    rows = np.concatenate([x.double().numpy().reshape(-1, 8) for x in inputs])
    with normscope.watch(norm) as watcher, torch.inference_mode(inference), torch.no_grad():
        for x in inputs:
            norm(x.clone())
    (layer,) = watcher.report().layers.values()
    assert layer.feature is not None
    assert (layer.kind, layer.count, layer.calls) == (kind, 60, 4)
    assert layer.own_error < 1e-5
    np.testing.assert_allclose(layer.feature.variance, rows.var(0), rtol=2e-5)


def test_a_norm_that_begins_to_work_in_place_is_told() -> None:
    norm, inputs = InPlaceNorm(at_once=False), [5 * torch.randn(2, 3, 8) for _ in range(4)]
    with normscope.watch(norm) as watcher, torch.no_grad():
        for i, x in enumerate(inputs):
            norm.in_place = i > 1
            norm(x.clone())
    report = watcher.report()
    layer = report.layers["InPlaceNorm"]
    assert layer.feature is not None
    assert report.warnings == ("InPlaceNorm: 1 call that wrote over its own input was left out",)
    rows = torch.cat([inputs[i] for i in (0, 1, 3)]).double().reshape(-1, 8).numpy()
    np.testing.assert_allclose(layer.feature.variance, rows.var(0), rtol=2e-5)


def test_a_norm_in_place_is_not_swapped() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), InPlaceNorm()), torch.randn(2, 3, 8)
    with (
        torch.no_grad(),
        normscope.swapped(model, kind="identity"),
        pytest.raises(UsageError, match="1: it writes its output over its input"),
    ):
        model(x)


def test_a_second_thread_is_refused_by_name_and_the_first_counts_on() -> None:
    model, ids = nn.Sequential(nn.LayerNorm(4)), torch.randn(2, 3, 4)
    errors: list[BaseException] = []
    inside, leave = threading.Event(), threading.Event()

    def waiting(*_: Any) -> None:
        inside.set()
        leave.wait(10)

    def second() -> None:
        inside.wait(10)
        try:
            model(ids)
        except Exception as error:
            errors.append(error)
        leave.set()

    with normscope.watch(model) as watcher:
        handle = model[0].register_forward_pre_hook(waiting)
        other = threading.Thread(target=second, name="loader")
        other.start()
        model(ids)
        other.join()
        handle.remove()
        model(ids)
        last = threading.Thread(target=model, args=(ids,))  # One after the other is right.
        last.start()
        last.join()
    (error,) = errors
    assert isinstance(error, UsageError)
    assert "runs in thread 'MainThread' and was called in thread 'loader'" in str(error)
    assert watcher.report().layers["0"].count == 18


def test_a_model_is_copied_and_pickled_while_it_is_watched() -> None:
    model, ids = models.gpt2(), torch.tensor([[5, 6, 7]])
    with normscope.watch(model) as watcher, torch.no_grad():
        model(input_ids=ids)
        kept = io.BytesIO()
        torch.save(model, kept)
        kept.seek(0)
        written = pickle.dumps(model)
        copies = [copy.deepcopy(model), pickle.loads(written), torch.load(kept, weights_only=False)]
        expected = model(input_ids=ids).logits
        assert all(torch.equal(one(input_ids=ids).logits, expected) for one in copies)
    assert watcher.report().run.batches == 2
    assert watcher.report().layers["transformer.ln_f"].count == 6
    assert b"normscope" not in written


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_backward_of_a_forward_that_was_not_watched_counts_nothing(reentrant: bool) -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model = nn.Module()
    last = nn.LayerNorm(4)
    model.block, model.last = block, last
    model.forward = lambda x: last(checkpoint(block, x, use_reentrant=reentrant))
    x = torch.randn(2, 3, 4, requires_grad=True)
    loss = model(x).sum()
    with normscope.watch(model) as watcher:
        loss.backward()
        assert watcher.report().layers["block.1"].calls == 0
        model(x).sum().backward()
    layers = watcher.report().layers
    assert [layers[name].count for name in ("block.1", "last")] == [6, 6]


def test_a_failure_to_count_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(2, 3, 4)
    expected, add = model(x), LayerCapture.add

    def failing(self: LayerCapture, *args: Any, **kwargs: Any) -> None:
        if self.norm.name == "2" and self.state.calls == 1:
            raise RuntimeError("no room")
        add(self, *args, **kwargs)

    monkeypatch.setattr(LayerCapture, "add", failing)
    with normscope.watch(model) as watcher:
        assert all(torch.equal(model(x), expected) for _ in range(3))
    report = watcher.report()
    assert [report.layers[name].calls for name in ("0", "2")] == [3, 1]
    assert report.warnings == ("2: counting failed, so later calls were left out: no room",)


def fake(model: nn.Module, x: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: torch.vmap(model)(x),
        lambda model, x: torch.func.grad(lambda y: model(y).sum())(x),
        lambda model, x: torch.jit.trace(model, x, check_trace=False),  # type: ignore[no-untyped-call]
        lambda model, x: torch.export.export(model, (x,)),
        lambda model, x: make_fx(model)(x),
        fake,
    ],
)
def test_what_has_no_numbers_works_and_is_not_counted(run: Callable[[nn.Module, Tensor], Any]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), torch.randn(3, 2, 4)
    with normscope.watch(model) as watcher:
        run(model, x)
        model(x)
    report = watcher.report()
    assert (report.layers["1"].calls, report.run.batches) == (1, 1)
    (note,) = report.warnings
    assert note.startswith("what ran inside ")
    assert note.endswith(" has no numbers of its own and was not counted")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [5]}, r"layer globs are \[5\]; expected a list of strings"),
        ({"exclude": 5}, "layer globs are 5; expected a list of strings"),
        ({"table_memory": "1GiB"}, "table_memory is '1GiB'; expected a number of bytes"),
        ({"words": "x"}, "words is 'x'; expected True, or how many token ids to keep"),
    ],
)
def test_options_of_a_wrong_type_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        normscope.watch(nn.LayerNorm(4), **options)


def test_what_is_no_model_is_refused() -> None:
    given: Any = "demo"
    with pytest.raises(UsageError, match=r"watch got a str; .* the name to normscope\.inspect\('demo'\)"):
        normscope.watch(given)
    given = None
    with pytest.raises(UsageError, match=r"watch got a NoneType; expected a torch\.nn\.Module"):
        normscope.watch(given)


def test_a_model_without_norms_is_an_error() -> None:
    with normscope.watch(nn.Sequential(nn.Linear(4, 4))) as watcher:
        watcher.model(torch.randn(2, 4))
    with pytest.raises(UsageError, match="Sequential has no normalization layer to measure"):
        watcher.report()
