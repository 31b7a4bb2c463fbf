"""A module is a norm by what it does: twice the input gives the same, and a little other a little other."""

import copy
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normscope
from normscope.norms import scale_invariance as trial
from normscope.norms.detection import find
from normscope.norms.scale_invariance import normalises


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    # Answers are kept by class, and these classes come again with other steps.
    monkeypatch.setattr(trial, "_RESULTS", {})


class Foo(nn.Module):
    """An RMSNorm whose name says nothing."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Applied(nn.Module):
    """A module that does what it is told with its input and its weight."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.step = step
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x, self.weight)


@pytest.mark.parametrize(
    "step",
    [
        lambda x, w: functional.layer_norm(x, x.shape[-1:], w),
        lambda x, w: functional.rms_norm(x, x.shape[-1:], w, 1e-6),
        lambda x, w: functional.normalize(x, dim=-1) * w,
        lambda x, w: x / x.abs().mean(-1, keepdim=True) * w,
        lambda x, w: x / x.abs().amax(-1, keepdim=True),
        lambda x, w: (x - x.amin(-1, keepdim=True)) / (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)),
        # Channels on axis 1, of images.
        lambda x, w: x / x.square().mean(1, keepdim=True).sqrt() * w[:, None, None],
        lambda x, w: functional.group_norm(x, 2, w),
    ],
)
@pytest.mark.parametrize("width", [6, 64])
def test_norms_of_any_name_are_told(step: Any, width: int) -> None:
    assert normalises(Applied(step, width))


@pytest.mark.parametrize(
    "step",
    [
        lambda x, w: x * w,
        lambda x, w: x,
        lambda x, w: functional.gelu(x),
        lambda x, w: torch.tanh(x),
        lambda x, w: torch.sigmoid(x),
        lambda x, w: functional.dropout(x, 0.5, training=False),
        lambda x, w: functional.dropout(x, 0.5, training=True),
        lambda x, w: torch.softmax(x, -1),
        lambda x, w: torch.softmax(x, -1) * w,
        lambda x, w: torch.softmax(x, 1),
        lambda x, w: torch.sign(x),
        lambda x, w: (x > 0).to(x.dtype) * w,
        lambda x, w: (x == x.amax(-1, keepdim=True)).to(x.dtype),
        lambda x, w: torch.zeros_like(x) + w,
        lambda x, w: torch.zeros_like(x),
        lambda x, w: torch.randn_like(x),
        lambda x, w: x / x.square().mean().detach(),
        lambda x, w: x * torch.rsqrt(x.abs().mean(-1, keepdim=True)),
        lambda x, w: x.mean(-1),
        lambda x, w: x.argsort(-1),
        lambda x, w: (x, x),
        lambda x, w: 1 / 0 * x,
    ],
)
@pytest.mark.parametrize("width", [6, 64, 768])
def test_what_is_no_norm_is_told_from_one(step: Any, width: int) -> None:
    assert not normalises(Applied(step, width))


class Linear(nn.Module):
    """A linear layer that is not torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class TwoInputs(nn.Module):
    """A norm that cannot be tried alone."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) * gate


@pytest.mark.parametrize("module", [Linear(), TwoInputs(), nn.Softmax(-1), nn.LayerNorm(4), nn.Identity()])
def test_what_cannot_be_tried_or_need_not_be_is_not_called_a_norm(module: nn.Module) -> None:
    assert not normalises(module)


def test_a_module_of_many_weights_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MAX_WEIGHTS", 5)
    monkeypatch.setattr(copy, "deepcopy", lambda _: pytest.fail("it was copied"))
    assert not normalises(Foo())


def test_one_of_a_class_and_shape_is_tried_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[nn.Module] = []
    real = trial.random_copy

    def counted(module: nn.Module, dice: torch.Generator) -> nn.Module:
        copies.append(module)
        return real(module, dice)

    monkeypatch.setattr(trial, "random_copy", counted)
    assert all(normalises(Foo()) for _ in range(9))
    assert len(copies) == 1
    assert normalises(Foo(8))
    assert len(copies) == 2


class Counter(nn.Module):
    """A norm that keeps count, in a buffer, a plain tensor and a list, and changes its weight."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.register_buffer("seen", torch.zeros(6))
        self.plain, self.log = torch.zeros(6), list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        self.plain += 1
        self.log.append(len(x))
        self.weight.mul_(2)
        return functional.normalize(x, dim=-1)


def test_the_module_itself_is_left_as_it_was() -> None:
    module = Counter().train()
    called: list[str] = []
    module.register_forward_hook(lambda *_: called.append("after"))
    module.register_forward_pre_hook(lambda *_: called.append("before"))
    before = copy.deepcopy(module.state_dict())
    assert normalises(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (module.plain.tolist(), module.log, called) == ([0.0] * 6, [], [])
    assert module.training
    assert module.weight.grad is None
    assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 1


def test_random_numbers_are_not_taken_from_the_user() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    normalises(Applied(lambda x, w: torch.randn_like(x)))
    assert torch.equal(torch.rand(4), expected)


def test_weights_on_the_meta_device_do_as_well() -> None:
    with torch.device("meta"):
        norm, linear = Foo(), Linear()
    assert normalises(norm)
    assert not normalises(linear)


def test_a_norm_of_no_name_is_measured_like_any() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Foo(), nn.GELU(), Applied(lambda x, w: torch.sign(x) * w))
    assert [norm.name for norm in find(model)] == ["1"]
    with normscope.watch(model) as watcher:
        model(torch.randn(2, 3, 6))
    layer = watcher.report().layers["1"]
    assert (layer.kind, layer.affine, layer.calls) == ("rmsnorm", "weight", 1)
    assert layer.own_error < 1e-5
    assert model[1].calls == 1


TRIED: list[str] = []


class Tells(nn.Module):
    """A module that says, outside of itself, that it was called."""

    def forward(self, x: Tensor) -> Tensor:
        TRIED.append("called")
        return functional.normalize(x, dim=-1)


class Exits(nn.Module):
    """A module that ends the program."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(3)


class Hangs(nn.Module):
    """A module that never returns."""

    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = x + 1


class Draws(nn.Module):
    """A module that draws from every stream of random numbers on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x + random.random() + float(np.random.rand()) + torch.rand(())


@pytest.mark.parametrize("module", [Tells(), Exits(), Hangs(), Draws()])
def test_what_does_more_than_arithmetic_is_not_run_and_said(module: nn.Module) -> None:
    TRIED.clear()
    with normscope.watch(nn.Sequential(module, nn.LayerNorm(6))) as watcher:
        pass
    assert TRIED == []
    (note,) = watcher.report().warnings
    assert note.startswith(
        f"classes whose code may do more than compute were not tried as norms: {type(module).__name__}; "
    )


def test_an_exit_of_a_known_package_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "may_be_tried", lambda _: True)
    assert not normalises(Exits())


def drawn(watched: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    monkeypatch.setattr(trial, "_RESULTS", {})
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 6), Draws(), nn.LayerNorm(6), nn.Dropout(0.5), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with normscope.watch(model) if watched else nullcontext():
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).sum().backward()
            optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("tried", [False, True])
def test_a_seeded_training_is_the_same_with_and_without(tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if tried:
        monkeypatch.setattr(trial, "may_be_tried", lambda _: True)
    pairs = zip(drawn(False, monkeypatch), drawn(True, monkeypatch), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_an_in_place_norm_is_told_too() -> None:
    assert normalises(Applied(lambda x, w: x.mul_(torch.rsqrt(x.square().mean(-1, keepdim=True))).mul_(w)))
