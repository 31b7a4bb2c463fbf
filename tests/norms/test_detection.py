"""Which modules normalise, and how: found by structure, settled by what they do."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.convnext.modeling_convnext import ConvNextLayerNorm
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import normscope
from normscope.capture.recorder import Recorder
from normscope.errors import UsageError
from normscope.norms.detection import MAX_ERROR, NormLayer, find, select
from normscope.norms.formulas import module_eps
from normscope.results.inspect import LayerReport

D = 6


def spread(module: Any) -> Any:
    """Give a module weights and biases that differ from each other and from their defaults."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return an input whose rows have neither a mean of 0 nor a variance of 1."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.7


def build(kind: Any, *arguments: Any, **options: Any) -> Any:
    """Make a module of a class whose constructor has no types."""
    return kind(*arguments, **options)


def only(model: nn.Module) -> NormLayer:
    (layer,) = find(model)
    return layer


def run(module: nn.Module, *inputs: Tensor) -> tuple[NormLayer, LayerReport]:
    """Run a module that is one norm layer; return the layer as found and settled, and its numbers."""
    with Recorder(module) as recorder, torch.no_grad():
        for x in inputs:
            module(x)
    (capture,) = recorder.captures
    (layer,) = recorder.report().layers.values()
    return capture.norm, layer


def class_name(value: object) -> str | None:
    """Name a test's parameter after the module it is about."""
    return type(value).__name__ if isinstance(value, nn.Module) else None


def facts(layer: NormLayer | LayerReport) -> tuple[str, float, str, int]:
    return layer.kind, layer.eps, layer.affine, layer.features


class RootMeanNorm(nn.Module):
    """An RMSNorm without weight, whose name does not say which norm it is."""

    variance_epsilon = 1e-4

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class CentringRMSNorm(nn.Module):
    """A LayerNorm that calls itself RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(D)), 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (D,), self.weight, None, self.eps)


class Uncentred(nn.LayerNorm):
    """A subclass of LayerNorm that does not centre."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (D,), self.weight, self.eps)


class Scaled(nn.LayerNorm):
    """A subclass of LayerNorm whose output is off by a factor."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class HeadNorm(nn.Module):
    """An RMSNorm with a scale for each head and feature, (H, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(3, D)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (D,), eps=self.eps) * self.weight


class ScaleFirstNorm(nn.Module):
    """An RMSNorm of the scaled input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(D)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x * self.weight, (D,), eps=self.eps)


class SquashNorm(nn.Module):
    """Norm by name, and none of the known ones."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


# What a layer is, before any call and after one


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        (nn.LayerNorm(D), ("layernorm", 1e-5, "weight+bias"), ("layernorm", "weight+bias")),
        (nn.LayerNorm(D, eps=1e-12), ("layernorm", 1e-12, "weight+bias"), ("layernorm", "weight+bias")),
        (nn.LayerNorm(D, bias=False), ("layernorm", 1e-5, "weight"), ("layernorm", "weight")),
        (nn.LayerNorm(D, elementwise_affine=False), ("layernorm", 1e-5, "none"), ("layernorm", "none")),
        (nn.RMSNorm(D, eps=1e-3), ("rmsnorm", 1e-3, "weight"), ("rmsnorm", "weight")),
        (nn.RMSNorm(D), ("rmsnorm", torch.finfo(torch.float32).eps, "weight"), ("rmsnorm", "weight")),
        (nn.RMSNorm(D, 0.5, elementwise_affine=False), ("rmsnorm", 0.5, "none"), ("rmsnorm", "none")),
        (build(T5LayerNorm, D), ("other", 1e-6, "weight"), ("rmsnorm", "weight")),
        (LlamaRMSNorm(D, eps=1e-5), ("rmsnorm", 1e-5, "weight"), ("rmsnorm", "weight")),
        (GemmaRMSNorm(D, eps=1e-6), ("rmsnorm", 1e-6, "weight"), ("rmsnorm", "1+weight")),
        (CentringRMSNorm(), ("rmsnorm", 1e-3, "weight"), ("layernorm", "weight")),
        (Uncentred(D, bias=False), ("layernorm", 1e-5, "weight"), ("rmsnorm", "weight")),
    ],
    ids=class_name,
)
def test_a_layer_is_what_it_does(
    module: nn.Module, before: tuple[str, float, str], after: tuple[str, str]
) -> None:
    spread(module)
    found = only(module)
    features = D if found.affine != "none" or hasattr(module, "normalized_shape") else 0
    assert facts(found) == (*before, features)
    assert (found.formula, found.settled, found.feature_axis) == (None, False, -1)
    norm, layer = run(module, noise(3, 5, D))
    assert facts(norm) == facts(layer) == (after[0], before[1], after[1], D)
    assert norm.settled
    assert layer.own_error < 1e-5
    assert layer.own_output is not None
    assert layer.module == type(module).__name__


def test_a_norm_without_weights_learns_its_width_from_its_input() -> None:
    assert facts(only(RootMeanNorm())) == ("other", 1e-4, "none", 0)
    norm, layer = run(RootMeanNorm(), noise(3, 5, D))
    assert facts(norm) == ("rmsnorm", 1e-4, "none", D)
    assert layer.own_error < 1e-6
    assert (layer.count, layer.layout) == (15, "(B, T, D)")


@pytest.mark.parametrize(
    ("module", "shape", "kind", "layout"),
    [
        (nn.BatchNorm1d(D), (9, D), "batchnorm", "(B, D)"),
        (nn.BatchNorm1d(D), (9, D, 4), "batchnorm", "(B, D, T)"),
        (nn.BatchNorm2d(D), (9, D, 4, 3), "batchnorm", "(B, D, T1, T2)"),
        (nn.SyncBatchNorm(D).eval(), (9, D, 4), "batchnorm", "(B, D, T)"),
        (nn.GroupNorm(2, D), (9, D, 4), "groupnorm", "(B, D, T)"),
        (nn.InstanceNorm1d(D, affine=True), (9, D, 4), "instancenorm", "(B, D, T)"),
        (nn.InstanceNorm2d(D), (9, D, 4, 3), "instancenorm", "(B, D, T1, T2)"),
        (nn.LazyBatchNorm1d(), (9, D, 4), "batchnorm", "(B, D, T)"),
    ],
    ids=class_name,
)
def test_channel_first_layers_have_their_features_on_axis_one(
    module: nn.Module, shape: tuple[int, ...], kind: str, layout: str
) -> None:
    assert only(module).kind == kind
    assert only(module).feature_axis == 1
    x = noise(*shape)
    norm, layer = run(module, x)
    assert (norm.kind, layer.features, layer.eps, layer.layout) == (kind, D, 1e-5, layout)
    assert layer.count == x.numel() // D
    assert_feature_statistics(layer, x.movedim(1, -1))
    assert layer.own_error < 1e-5


def assert_feature_statistics(layer: LayerReport, x: Tensor) -> None:
    rows = x.double().reshape(-1, layer.features).numpy()
    assert layer.feature is not None
    np.testing.assert_allclose(layer.feature.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.feature.variance, rows.var(0), rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_uses_the_batchs_statistics_when_it_must(training: bool, tracked: bool) -> None:
    module = spread(nn.BatchNorm1d(D, track_running_stats=tracked)).train(training)
    if tracked:
        module.running_mean.fill_(0.5)
        module.running_var.fill_(4.0)
    x = noise(9, D, 4)
    _, layer = run(module, x)
    assert layer.own_error < 1e-5
    assert layer.own_output is not None
    rows = x.movedim(1, -1).reshape(-1, D).double().numpy()
    own = (rows - rows.mean(0)) / rows.std(0) if training or not tracked else (rows - 0.5) / 2.0
    np.testing.assert_allclose(layer.own_output.mean, own.mean(0), atol=1e-4)
    np.testing.assert_allclose(layer.own_output.variance, own.var(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("module", "shape"), [(HeadNorm(), (4, 5, 3, D)), (ScaleFirstNorm(), (4, 5, D))], ids=class_name
)
def test_an_own_output_without_an_affine_after_it_is_measured_whole(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    x = noise(*shape)
    _, layer = run(spread(module), x)
    (weight,) = module.parameters()
    scaled = x * weight if isinstance(module, ScaleFirstNorm) else x
    rows = scaled.detach().reshape(-1, D).double().numpy()
    own = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-6)
    assert layer.own_error < 1e-5
    assert layer.own_output is not None
    np.testing.assert_allclose(layer.own_output.mean, own.mean(0), atol=1e-5)
    np.testing.assert_allclose(layer.own_output.variance, own.var(0), rtol=1e-5)


@pytest.mark.parametrize(("shape", "layout"), [((3, 4), "(B, T, D)"), ((2, 3, 4), "(B, D)")])
def test_a_layer_norm_over_several_axes_takes_them_as_features(shape: tuple[int, ...], layout: str) -> None:
    module = spread(nn.LayerNorm(shape))
    width = math.prod(shape)
    assert only(module).features == width
    x = noise(5, 2, 3, 4)
    _, layer = run(module, x)
    assert facts(layer) == ("layernorm", 1e-5, "weight+bias", width)
    assert (layer.layout, layer.count) == (layout, x.numel() // width)
    assert layer.own_error < 1e-5
    assert_feature_statistics(layer, x)


def test_a_layer_norm_over_one_feature_counts_every_row() -> None:
    _, layer = run(nn.LayerNorm(1), noise(2, 3, 1))
    assert (layer.features, layer.count, layer.layout) == (1, 6, "(B, T, D)")


# Formulas that do not fit


def test_a_norm_by_name_only_is_other() -> None:
    x = noise(3, 5, D)
    norm, layer = run(SquashNorm(), x)
    assert (layer.kind, layer.affine, norm.formula) == ("other", "none", None)
    assert math.isnan(layer.eps)
    assert math.isnan(layer.own_error)
    assert layer.own_output is None
    assert layer.affine_fit is None
    assert layer.agreement is not None
    assert all(math.isnan(value) for value in layer.agreement.values())
    assert_feature_statistics(layer, x)
    assert layer.global_ is not None
    assert layer.global_.variance == pytest.approx(float(x.double().var(correction=0)), rel=1e-5)
    assert layer.explained is not None
    assert 0 < layer.explained.position.eta2 < 1


def test_a_subclass_that_does_something_else_is_other() -> None:
    module = Scaled(D)
    module.factor = 3.0
    assert only(module).kind == "layernorm"
    _, layer = run(module, noise(3, 5, D))
    assert layer.kind == "other"
    assert layer.own_output is None


def test_own_error_is_the_worst_miss_relative_to_the_outputs_rms() -> None:
    module, first, second = spread(Scaled(D)), noise(3, 5, D), noise(4, 2, D, seed=1)
    module.factor = 1.0004
    _, layer = run(module, first, second)
    outputs = [module(x).detach().double().numpy().ravel() for x in (first, second)]
    rms = np.sqrt((np.concatenate(outputs) ** 2).mean())
    worst = np.abs(np.concatenate(outputs)).max() * (1 - 1 / 1.0004)
    assert layer.kind == "layernorm"
    assert layer.own_error == pytest.approx(worst / rms, rel=1e-3)
    assert layer.own_error < MAX_ERROR


def test_own_error_shows_a_layer_that_changes_after_it_has_settled() -> None:
    module, x = Scaled(D), noise(3, 5, D)
    with normscope.watch(module) as watcher, torch.no_grad():
        module(x)
        assert watcher.report().layers["Scaled"].own_error < 1e-5
        module.factor = 1.5
        module(x)
    layer = watcher.report().layers["Scaled"]
    assert layer.kind == "layernorm"
    assert layer.own_error > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_rounding_an_outlier_feature_does_not_hide_the_formula(dtype: torch.dtype, kind: str) -> None:
    # One feature far above the others is what large models have; its rounding is no other formula.
    module = (nn.RMSNorm(1024, eps=1e-6) if kind == "rmsnorm" else nn.LayerNorm(1024)).to(dtype)
    x = noise(4, 8, 1024)
    x[..., 3] = 300
    _, layer = run(module, x.to(dtype))
    assert layer.kind == kind
    assert layer.own_output is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
def test_an_rms_norm_without_eps_uses_the_inputs(dtype: torch.dtype, affine: bool) -> None:
    # Inputs so small that eps shows.
    scale = 1e-9 if dtype == torch.float64 else 1e-4
    module = nn.RMSNorm(D, elementwise_affine=affine).to(dtype)
    _, layer = run(module, (noise(3, 5, D) * scale).to(dtype))
    assert layer.kind == "rmsnorm"
    assert layer.own_error < (0.02 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize(
    ("module", "x"),
    [(nn.LayerNorm(D), torch.zeros(2, 3, D)), (nn.LayerNorm(D), torch.ones(2, 3, D))],
    ids=["zero input", "constant input"],
)
def test_a_first_input_that_tells_nothing_settles_nothing(module: nn.Module, x: Tensor) -> None:
    _, layer = run(module, x, noise(2, 3, D))
    assert layer.kind == "layernorm"


@pytest.mark.parametrize("module", [nn.LayerNorm(D), nn.RMSNorm(D, 1e-5), nn.BatchNorm1d(D)])
def test_a_weight_of_zero_does_not_make_a_layer_unknown(module: nn.Module) -> None:
    # As residual branches are often initialised.
    nn.init.zeros_(module.get_parameter("weight"))
    kind = only(module).kind
    with normscope.watch(module) as watcher:
        module(noise(2, D, D))
    assert watcher.report().layers[type(module).__name__].kind == kind
    assert not [note for note in watcher.report().warnings if "no known formula" in note]


@pytest.mark.parametrize(
    "module",
    [build(ConvNextLayerNorm, D, data_format="channels_first"), build(DetrFrozenBatchNorm2d, D)],
    ids=class_name,
)
def test_weights_that_are_not_of_the_last_axis_never_break_the_forward(module: nn.Module) -> None:
    x = noise(2, D, 5, 4)
    expected = module(x)
    with normscope.watch(module) as watcher:
        assert torch.equal(module(x), expected)
    (layer,) = watcher.report().layers.values()
    assert layer.calls == 1
    assert layer.nonfinite == 0


# Which modules are listed


class FooNorm(nn.Module):
    """A container: it normalises through the LayerNorm it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class NormedTable(nn.Module):
    """Norm by name, with a matrix for a weight: an embedding or a projection, no norm layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D, D))


class IntShapeNorm(CentringRMSNorm):
    """Its normalized_shape is a number, as nn.LayerNorm's argument may be."""

    normalized_shape = D


def names(model: nn.Module) -> list[str]:
    return [layer.name for layer in find(model)]


def test_layers_are_listed_in_the_models_order_and_numbered() -> None:
    model = nn.Sequential(
        nn.Linear(D, D), nn.RMSNorm(D), nn.Sequential(nn.GELU(), nn.LayerNorm(D)), SquashNorm()
    )
    assert [(layer.name, layer.index) for layer in find(model)] == [("1", 0), ("2.1", 1), ("3", 2)]
    assert [layer.index for layer in find(model, ["2*", "3"])] == [1, 2]


def test_a_container_is_not_a_layer_but_what_it_holds_is() -> None:
    model = nn.ModuleDict({"a": FooNorm(), "b": nn.LayerNorm(D)})
    assert names(model) == ["a.inner", "b"]
    assert names(FooNorm()) == ["inner"]


def test_a_root_that_is_a_norm_goes_by_its_class() -> None:
    assert names(nn.LayerNorm(D)) == ["LayerNorm"]
    assert names(LlamaRMSNorm(D)) == ["LlamaRMSNorm"]


def test_a_shared_module_is_listed_once_and_counts_every_call() -> None:
    shared = nn.LayerNorm(D)
    model = nn.Sequential(shared, nn.Linear(D, D), shared)
    assert names(model) == ["0"]
    with normscope.watch(model) as watcher:
        model(noise(2, 3, D))
    assert (watcher.report().layers["0"].calls, watcher.report().layers["0"].count) == (2, 12)


def test_a_model_without_norms_has_no_layers() -> None:
    assert find(nn.Sequential(nn.Linear(D, D), nn.Dropout(), nn.Identity())) == []
    assert find(NormedTable()) == []


def test_a_reparametrised_weight_is_no_layer() -> None:
    # What computes the weight is called _WeightNorm, and it never sees an activation.
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(3, D, 3)), nn.LayerNorm(7))
    assert names(model) == ["1"]


def test_a_shape_that_is_a_number_is_a_width() -> None:
    assert only(IntShapeNorm()).features == D


# eps


@pytest.mark.parametrize("name", ["eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps"])
def test_eps_goes_by_many_names(name: str) -> None:
    module = SquashNorm()
    setattr(module, name, 3e-4)
    assert module_eps(module) == 3e-4
    setattr(module, name, 0)
    assert module_eps(module) == 0.0


def test_eps_is_unknown_when_a_module_holds_none() -> None:
    module: Any = SquashNorm()
    assert math.isnan(module_eps(module))
    module.eps = torch.tensor(1e-5)
    module.variance_epsilon = 1e-6
    assert module_eps(module) == 1e-6


def test_eps_of_none_is_the_dtypes_own() -> None:
    assert module_eps(nn.RMSNorm(D)) == torch.finfo(torch.float32).eps
    assert module_eps(nn.RMSNorm(D, elementwise_affine=False)) == torch.finfo(torch.float32).eps
    assert module_eps(nn.RMSNorm(D).double()) == torch.finfo(torch.float64).eps


# Choosing by name

NAMES = ["h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "h.1.LN_3", "ln_f"]


@pytest.mark.parametrize(
    ("wanted", "exclude", "chosen"),
    [
        ([], [], NAMES),
        (["*.ln_1"], [], ["h.0.ln_1", "h.1.ln_1"]),
        (["h.?.ln_[2-9]"], [], ["h.0.ln_2", "h.1.ln_2"]),
        (["ln_f", "*.LN_*"], [], ["h.1.LN_3", "ln_f"]),
        (["*"], ["h.*"], ["ln_f"]),
        ([], ["*.ln_[!1]", "*LN*"], ["h.0.ln_1", "h.1.ln_1", "ln_f"]),
        (["h.0.*"], ["*.ln_2"], ["h.0.ln_1"]),
        (["h.0.ln_1", "h.0.*"], [], ["h.0.ln_1", "h.0.ln_2"]),
        (["ln_1", "*"], [], None),
        (["*.Ln_1"], [], None),
        ([], ["nothing"], None),
    ],
)
def test_globs_choose_names(wanted: list[str], exclude: list[str], chosen: list[str] | None) -> None:
    if chosen is not None:
        assert select(NAMES, wanted, exclude) == set(chosen)
        return
    glob = [*wanted, *exclude][0]
    with pytest.raises(UsageError) as caught:
        select(NAMES, wanted, exclude)
    message = str(caught.value)
    assert f"no layer matches {glob!r}" in message
    assert "'h.0.ln_1'" in message
    assert len(message.splitlines()) == 1


def test_no_glob_matches_a_model_without_layers() -> None:
    assert select([], []) == set()
    with pytest.raises(UsageError, match="none"):
        find(nn.Linear(D, D), ["*"])


class ChannelFirstNorm(nn.Module):
    """A LayerNorm over axis 1, as convolutional models write it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(features) + 0.5), nn.Parameter(torch.rand(features))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(
            x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps
        ).movedim(-1, 1)


@pytest.mark.parametrize("shape", [(3, D, 5, 4), (3, D, 7), (3, D, D), (3, D, 5, D)], ids=str)
def test_the_axis_of_the_features_is_told_by_what_the_layer_does(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    _, layer = run(ChannelFirstNorm(D), x)
    assert (layer.kind, layer.features) == ("layernorm", D)
    assert layer.own_error < 1e-5
    assert layer.layout is not None
    assert layer.layout.startswith("(B, D, T")
    assert_feature_statistics(layer, x.movedim(1, -1))
