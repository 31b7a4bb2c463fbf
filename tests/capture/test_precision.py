"""Reduced precision and quantized models: the numbers are those of the very activations, in float64."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.capture.recorder import Recorder
from tests.capture.test_watcher import padded
from tests.support import models
from tests.support.reference import layer_norm, measure, rms_norm, stack, worst_error

SMALL = (torch.bfloat16, torch.float16)
MODELS = ((models.bert, layer_norm), (models.llama, rms_norm))


def compare(
    model: Any, norm: Callable[..., Any], context: AbstractContextManager[Any] | None = None
) -> normscope.Report:
    """Watch one forward; check every layer's numbers against those of what an independent hook saw."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, args: kept.setdefault(name, args[0].detach().clone())

    batch = padded("right")
    with Recorder(model) as recorder:
        handles = [
            capture.norm.module.register_forward_pre_hook(keep(capture.norm.name))
            for capture in recorder.captures
        ]
        with torch.no_grad(), context or nullcontext():
            model(**batch)
    for handle in handles:
        handle.remove()
    report = recorder.report()
    layers = report.to_dict()["layers"]
    assert layers
    for layer in layers:
        x = kept[layer["name"]].double().numpy()
        rows = [x[i, :n] for i, n in enumerate(batch["attention_mask"].sum(1).tolist())]
        expected = measure(stack([(r, norm(r, layer["eps"]), np.arange(len(r))) for r in rows]), layer["eps"])
        error, where = worst_error(layer, expected)
        assert error < 2e-5, (layer["name"], where)
    assert report.warnings == ()
    return report


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize(("build", "norm"), MODELS)
def test_a_small_dtype_is_measured_as_float64_would(build: Any, norm: Any, dtype: torch.dtype) -> None:
    report = compare(build().to(dtype), norm)
    assert report.model.dtype == str(dtype).removeprefix("torch.")
    for layer in report.layers.values():
        assert layer.kind == ("layernorm" if norm is layer_norm else "rmsnorm")
        # One rounding of the output's dtype, of elements a few times the rms.
        assert 0 < layer.own_error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize(("build", "norm"), MODELS)
def test_autocast_changes_nothing_for_the_statistics(build: Any, norm: Any, dtype: torch.dtype) -> None:
    report = compare(build(), norm, torch.autocast("cpu", dtype))
    assert max(layer.own_error for layer in report.layers.values()) < 8 * torch.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("build", "norm"), MODELS)
def test_int8_linear_layers_around_the_norms_do_no_harm(build: Any, norm: Any) -> None:
    model = build()
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of PyTorch has no quantized kernels")
    quantize: Any = torch.ao.quantization.quantize_dynamic
    model = quantize(model, {nn.Linear}, dtype=torch.qint8)
    report = compare(model, norm)
    assert max(layer.own_error for layer in report.layers.values()) < 1e-5


@pytest.mark.parametrize(("build", "norm"), MODELS)
def test_float32_norms_in_a_bfloat16_model_are_settled(build: Any, norm: Any) -> None:
    model = build().bfloat16()
    for name, module in model.named_modules():
        if "norm" in name.lower():
            module.float()
            forward = module.forward
            module.forward = lambda x, forward=forward: forward(x.float()).bfloat16()
    report = compare(model, norm)
    assert max(layer.own_error for layer in report.layers.values()) < 8 * torch.finfo(torch.bfloat16).eps


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("build", "norm"), MODELS)
def test_the_default_dtype_is_the_users_affair(build: Any, norm: Any, default_dtype: torch.dtype) -> None:
    compare(build(), norm)
    compare(build().float(), norm)


class Widening(nn.Module):
    """A norm that takes any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.float(), x.shape[-1:], eps=1e-6)


class WideningRMSNorm(Widening):
    """The same under a name that says so."""


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64])
def test_float8_and_integers_are_the_numbers_they_stand_for(dtype: torch.dtype) -> None:
    norm, x = WideningRMSNorm(), (torch.randn(2, 3, 8) * 9).to(dtype)
    with normscope.watch(norm) as watcher:
        norm(x)
    layer = watcher.report().layers["WideningRMSNorm"]
    assert (layer.kind, layer.count) == ("rmsnorm", 6)
    assert layer.own_error < 1e-5
    assert layer.feature is not None
    np.testing.assert_allclose(
        layer.feature.variance, x.double().reshape(6, 8).var(0, correction=0), rtol=1e-6
    )


class AnyNorm(nn.Module):
    """A norm that hands on what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)])


@pytest.mark.parametrize(
    "make",
    [
        nested,
        lambda: torch.randn(2, 3, 4).to_sparse(),
        lambda: torch.randn(2, 3, 4) + 1j,
        lambda: torch.quantize_per_tensor(torch.randn(2, 3, 4), 0.1, 0, torch.quint8),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_input_that_is_no_table_of_real_numbers_is_left_out_and_said(make: Callable[[], Tensor]) -> None:
    norm = AnyNorm()
    with normscope.watch(norm) as watcher:
        norm(make())
    report = watcher.report()
    assert report.layers["AnyNorm"].count == 0
    assert report.warnings == (
        "AnyNorm: 1 calls with a nested, sparse, quantized or complex input were left out",
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_real_model_in_a_small_dtype_is_close_to_itself_in_float32(dtype: str) -> None:
    texts = models.prose(6)
    wide = normscope.inspect("demo", texts)
    small = normscope.inspect("demo", texts, loading=normscope.Loading(dtype=dtype))
    assert small.model.dtype == dtype
    assert small.warnings == wide.warnings
    for name, layer in wide.layers.items():
        other = small.layers[name]
        assert (other.kind, other.count) == (layer.kind, layer.count)
        assert layer.feature is not None
        assert other.feature is not None
        gap = np.linalg.norm(other.feature.variance - layer.feature.variance)
        assert 0 < gap < 0.1 * np.linalg.norm(layer.feature.variance)
        assert other.own_error < 16 * torch.finfo(getattr(torch, dtype)).eps
