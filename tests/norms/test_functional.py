"""Norms without a module: every way to write one is seen and named, and nothing else is."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import normscope
from normscope.errors import UsageError
from normscope.norms.homogeneity import Degrees
from tests.support import models
from tests.zoo.build import build

Step = Callable[[Tensor], Tensor]
HERE = Path(__file__).name


class Applied(nn.Module):
    """A module that does what it is told, and has a part, so that it is no norm by itself."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step, self.part = step, nn.Identity()
        self.weight = nn.Parameter(torch.rand(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.step(self, x)
        return out


def notes_of(model: nn.Module, *inputs: Any, **named: Any) -> list[str]:
    with normscope.watch(model) as watcher, torch.no_grad():
        model(*inputs, **named)
    try:
        return [note for note in watcher.report().warnings if "is not a module" in note]
    except UsageError:  # There is nothing to say of a model that does not normalise at all.
        return []


def own_l2norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


def own_group_norm(x: Tensor) -> Tensor:
    grouped = x.view(x.shape[0], -1, 2, 3)
    variance, mean = torch.var_mean(grouped, dim=(1, 3), keepdim=True, correction=0)
    return ((grouped - mean) / torch.sqrt(variance + 1e-5)).view(x.shape)


def own_variance(x: Tensor) -> Tensor:
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    variance = (wide - mean).pow(2).mean(-1, keepdim=True)
    return ((wide - mean) * (variance + 1e-5) ** -0.5).to(x.dtype)


def in_place(x: Tensor) -> Tensor:
    scale = x.square().mean(-1, keepdim=True).add_(1e-6).sqrt_().reciprocal_()
    return x.clone().mul_(scale)


@pytest.mark.parametrize(
    "step",
    [
        own_l2norm,
        own_group_norm,
        own_variance,
        in_place,
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x / x.norm(p=2, dim=-1, keepdim=True).clamp_min(1e-6),
        lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
        lambda x: x / torch.linalg.norm(x, ord=2, dim=-1, keepdim=True),
        lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5),
        lambda x: x * (1 / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True))),
        lambda x: x * (2.0 / x.pow(2).mean(-1, keepdim=True).sqrt()).to(torch.float32),
        lambda x: x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5).expand_as(x),
        lambda x: x.bfloat16() * torch.rsqrt(x.bfloat16().float().pow(2).mean(-1, keepdim=True)),
    ],
)
def test_a_norm_that_is_written_out_is_seen(step: Step) -> None:
    (note,) = notes_of(nn.Sequential(nn.Linear(6, 6), Applied(lambda _, x: step(x))), torch.randn(2, 4, 6))
    assert note.startswith(f"1: a norm written out at {HERE}:")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("layer_norm", lambda x: functional.layer_norm(x, (6,))),
        ("rms_norm", lambda x: functional.rms_norm(x, (6,))),
        ("rms_norm", lambda x: torch.rms_norm(x, (6,))),
        ("group_norm", lambda x: functional.group_norm(x, 2)),
        ("batch_norm", lambda x: functional.batch_norm(x, None, None, training=True)),
        ("instance_norm", lambda x: functional.instance_norm(x, eps=1e-3)),
        ("normalize", lambda x: functional.normalize(x, dim=-1)),
        ("normalize", lambda x: functional.normalize(input=x)),
        ("local_response_norm", lambda x: functional.local_response_norm(x, 2)),
    ],
)
def test_a_functional_norm_is_seen_and_named(name: str, step: Step) -> None:
    (note,) = notes_of(nn.Sequential(nn.Linear(6, 6), Applied(lambda _, x: step(x))), torch.randn(2, 6, 6))
    line = step.__code__.co_firstlineno
    where = f"{HERE}:{line} in"
    assert note.startswith(f"1: functional {name} at {where}")
    assert note.endswith("is not a module, so it is not measured")


def rotary(x: Tensor) -> Tensor:
    angles = torch.arange(4.0)[:, None] / 10 ** torch.arange(3.0)
    cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., 3:], x[..., :3]], -1) * sin


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x / math.sqrt(6),
        lambda x: x / torch.sqrt(torch.tensor(6.0)),
        lambda x: functional.softmax(x, -1),
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: x / x.sum(-1, keepdim=True),
        lambda x: x / x.abs().amax(-1, keepdim=True),
        lambda x: x * x.pow(2).mean(-1, keepdim=True).sqrt(),
        lambda x: x / x.var(-1, keepdim=True),
        lambda x: x / x.flip(0).relu().pow(2).mean(-1, keepdim=True).sqrt(),
        lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
        lambda x: x + x.std(-1, keepdim=True),
        lambda x: functional.gelu(x, approximate="tanh"),
        lambda x: functional.scaled_dot_product_attention(x, x, x),
        rotary,
    ],
)
def test_what_is_no_norm_is_left_alone(step: Step) -> None:
    assert notes_of(nn.Sequential(nn.Linear(6, 6), Applied(lambda _, x: step(x))), torch.randn(2, 4, 6)) == []


def test_weights_that_are_normalised_are_no_activations() -> None:
    def standardised(module: nn.Module, x: Tensor) -> Tensor:
        weight: Any = module.weight
        flat = functional.batch_norm(weight.reshape(1, 6, -1), None, None, training=True).reshape(6, 6)
        own = flat / flat.norm(dim=1, keepdim=True)
        return functional.linear(x, own + functional.normalize(weight))

    model = nn.Sequential(Applied(standardised), torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))
    assert notes_of(model, torch.randn(2, 4, 6)) == []


class HandWrittenNorm(nn.Module):
    """A norm with a module of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return own_l2norm(x)


def test_what_happens_within_a_norm_is_its_own_business_even_where_it_is_not_chosen() -> None:
    model = nn.Sequential(nn.Linear(6, 6), HandWrittenNorm(), nn.LayerNorm(6), nn.LocalResponseNorm(2))
    with normscope.watch(model, layers=["2"]) as watcher:
        model(torch.randn(2, 6, 6))
    assert list(watcher.report().layers) == ["2"]
    assert watcher.report().warnings == ()


def test_a_place_is_named_once_with_the_modules_that_pass_it() -> None:
    twice = Applied(lambda _, x: own_l2norm(x) + own_l2norm(2 * x))
    model = nn.Sequential(twice, Applied(lambda _, x: own_l2norm(x)), Applied(lambda _, x: own_l2norm(x)))
    line = own_l2norm.__code__.co_firstlineno + 1
    where = f"{HERE}:{line} in own_l2norm"
    assert notes_of(model, torch.randn(2, 4, 6)) == [
        f"0 and 2 more like it: a norm written out at {where} is not a module, so it is not measured"
    ]


def test_a_model_that_is_no_module_of_another_is_named_by_its_class() -> None:
    (note,) = notes_of(Applied(lambda _, x: own_l2norm(x)), torch.randn(2, 4, 6))
    assert note.startswith("Applied: ")


def open_modes() -> int:
    depth: int = torch._C._len_torch_function_stack()
    return depth


def test_only_the_first_forward_is_looked_at() -> None:
    during: list[int] = []

    def step(_: nn.Module, x: Tensor) -> Tensor:
        during.append(open_modes())
        return x

    model = nn.Sequential(nn.LayerNorm(6), Applied(step))
    with normscope.watch(model) as watcher:
        for _ in range(3):
            model(torch.randn(2, 4, 6))
    with watcher:
        model(torch.randn(2, 4, 6))
    assert during == [1, 0, 0, 0]
    assert open_modes() == 0


def test_a_forward_that_fails_leaves_nothing_and_the_next_is_looked_at() -> None:
    fail = [KeyboardInterrupt(), ValueError("on purpose")]

    def step(_: nn.Module, x: Tensor) -> Tensor:
        if fail:
            raise fail.pop()
        return own_l2norm(x)

    model = nn.Sequential(nn.LayerNorm(6), Applied(step))
    watcher = normscope.watch(model)
    with watcher, pytest.raises(ValueError, match="on purpose"):
        model(torch.randn(2, 4, 6))
    assert open_modes() == 0
    with pytest.raises(KeyboardInterrupt), watcher:
        model(torch.randn(2, 4, 6))
    assert open_modes() == 0
    with watcher:
        model(torch.randn(2, 4, 6))
    (note,) = watcher.report().warnings
    assert note.startswith("1: a norm written out")


def test_an_error_within_an_open_watcher_closes_the_mode_at_once() -> None:
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))
    with normscope.watch(model):
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 4, 5))
        assert open_modes() == 0


def test_gradients_and_outputs_are_the_same() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Applied(lambda _, x: own_l2norm(x)), nn.LayerNorm(6))
    x = torch.randn(2, 4, 6, requires_grad=True)
    plain = model(x)
    plain.sum().backward()
    expected, x.grad = x.grad, None
    with normscope.watch(model):
        watched = model(x)
    watched.sum().backward()
    assert torch.equal(plain, watched)
    assert expected is not None
    assert torch.equal(expected, x.grad if x.grad is not None else torch.empty(0))


@pytest.mark.parametrize(
    ("kind", "what", "where"),
    [
        ("swinv2", "functional normalize", "modeling_swinv2.py"),
        ("qwen3_next", "a norm written out", "modeling_qwen3_next.py"),
    ],
)
def test_models_of_transformers_that_normalise_without_a_module_say_so(
    kind: str, what: str, where: str
) -> None:
    specimen = build(kind)
    (note,) = notes_of(specimen.model, **(specimen.inputs or {}))
    assert f": {what} at {where}:" in note
    module = note.split(" and ")[0].split(":")[0]
    assert isinstance(specimen.model.get_submodule(module), nn.Module)


@pytest.mark.parametrize("model", [models.bert, models.llama, models.gpt2])
def test_models_whose_norms_are_all_modules_are_not_accused(model: Any) -> None:
    assert notes_of(model(), input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]])) == []


def test_inspect_says_it_too() -> None:
    model, tokenizer = models.demo()
    plain = model.pooler.forward
    assert not any(
        "is not a module" in note for note in normscope.inspect(model, ["a b"], tokenizer=tokenizer).warnings
    )
    model.pooler.forward = lambda states: functional.normalize(plain(states), dim=-1)
    report = normscope.inspect(model, ["a b"], tokenizer=tokenizer)
    assert [note for note in report.warnings if f"functional normalize at {HERE}:" in note]


class Watching(TorchFunctionMode):
    """Hands every function on to the degrees."""

    def __init__(self) -> None:
        super().__init__()
        self.degrees = Degrees()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.degrees.follow(func.__name__.strip("_"), args, kwargs or {}, result)
        return result


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.float().reshape(4, -1),
        lambda x: x - x.mean(),
        lambda x: x * x,
        lambda x: x.square().sum(-1),
        lambda x: 1 / x.norm(dim=1),
        lambda x: x.pow(2).mean(0).rsqrt() * 3,
        lambda x: x.var(0).sqrt().reciprocal(),
        lambda x: x * x.std(-1, keepdim=True),
        lambda x: torch.std_mean(x, -1)[0],
        lambda x: x.norm(dim=0) * x.pow(2).sum(0) ** 1.5 / x.var(0),
    ],
)
def test_degrees_are_those_by_which_tensors_really_grow(step: Step) -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    with Watching() as mode:
        once = step(x)
    term = mode.degrees._recorded(once)
    assert term is not None
    torch.testing.assert_close(step(2 * x), once * 2**term.degree)


@pytest.mark.parametrize("step", [torch.exp, torch.relu, lambda x: x + 1, lambda x: x @ x.T, lambda x: x - x])
def test_steps_that_lose_sight_of_the_activation_have_no_degree(step: Step) -> None:
    with Watching() as mode:
        out = step(torch.randn(3, 3))
    assert mode.degrees._recorded(out) is None
