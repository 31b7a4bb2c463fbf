"""A class that its user has named is a norm, whatever it is called and does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.errors import UsageError
from normscope.norms import registry
from normscope.norms.detection import find
from normscope.norms.registry import registered


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))


class Scaler(nn.Module):
    """x / mean |x|, with an affine: its name says nothing, and its two inputs keep it from being tried."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6) + 0.5)
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor, shift: float) -> Tensor:
        return x / x.abs().mean(-1, keepdim=True) * self.weight + self.bias + 0 * shift


class Offset(Scaler):
    """One derived from it, whose weight is an offset from 1."""

    def forward(self, x: Tensor, shift: float) -> Tensor:
        return x / x.abs().mean(-1, keepdim=True) * (1 + self.weight) + self.bias


class Holder(nn.Module):
    """A model around a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x, 1.0)
        return out


def by_mean_size(module: nn.Module, x: Tensor) -> Tensor:
    return x / x.abs().mean(-1, keepdim=True)


def layer_of(module: nn.Module, x: Tensor | None = None) -> Any:
    torch.manual_seed(0)
    model = Holder(module)
    with normscope.watch(model) as watcher, torch.no_grad():
        model(torch.randn(4, 5, 6) if x is None else x)
    report = watcher.report()
    return report.layers["layer"], [note for note in report.warnings if note.startswith("layer:")]


def test_a_class_that_nothing_gives_away_is_found_once_it_is_registered() -> None:
    model = Holder(Scaler())
    assert find(model) == []
    assert normscope.register(Scaler) is Scaler
    assert [(norm.name, norm.kind) for norm in find(model)] == [("layer", "other")]


def test_its_own_way_to_normalise_is_proven_by_its_real_output() -> None:
    normscope.register(Scaler, by_mean_size)
    layer, notes = layer_of(Scaler())
    assert (layer.kind, layer.affine, layer.count) == ("other", "weight+bias", 20)
    assert layer.own_error < 1e-5
    assert notes == []
    torch.manual_seed(0)
    x = torch.randn(4, 5, 6).double().numpy().reshape(20, 6)
    y = x / np.abs(x).mean(1, keepdims=True)
    np.testing.assert_allclose(layer.own_output.mean, y.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.own_output.variance, y.var(0), rtol=1e-5)


def test_a_wrong_way_is_not_believed() -> None:
    normscope.register(Scaler, lambda module, x: x / x.square().mean(-1, keepdim=True).sqrt(), kind="rmsnorm")
    layer, notes = layer_of(Scaler())
    assert layer.kind == "other"
    assert np.isnan(layer.own_error)
    assert layer.own_output is None
    assert layer.feature is not None
    assert notes == ["layer: Scaler matches no formula of ours, so only its input is measured"]


def test_one_that_is_right_at_first_and_wrong_later_shows_in_own_error() -> None:
    normscope.register(Scaler, lambda module, x: by_mean_size(module, x).clamp(max=5))
    model = Holder(Scaler())
    with normscope.watch(model) as watcher, torch.no_grad():
        model(torch.rand(4, 5, 6))
        model(torch.tensor([100.0, 0, 0, 0, 0, 0]).expand(4, 5, 6))
    assert watcher.report().layers["layer"].own_error > 0.1
    assert any("rms from what its formula gives" in note for note in watcher.report().warnings)


def test_without_a_way_the_known_formulas_are_tried() -> None:
    @normscope.register
    class Plain(nn.LayerNorm):
        def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
            return super().forward(x)

    layer, _ = layer_of(Plain(6))
    assert layer.kind == "layernorm"
    assert layer.own_error < 1e-5


def test_the_kind_is_what_reports_call_it() -> None:
    normscope.register(Scaler, by_mean_size, kind="l2norm")
    assert layer_of(Scaler())[0].kind == "l2norm"


def test_a_derived_class_is_one_too_and_its_offset_is_found() -> None:
    normscope.register(Scaler, by_mean_size)
    layer, _ = layer_of(Offset())
    assert (layer.module, layer.affine) == ("Offset", "1+weight+bias")
    assert layer.own_error < 1e-5


def test_the_nearest_class_and_the_last_word_on_it_count() -> None:
    normscope.register(Scaler, kind="l2norm")
    normscope.register(Offset, kind="rmsnorm")
    told = [registered(module) for module in (Scaler(), Offset(), nn.Linear(2, 2))]
    assert [known.kind if known else None for known in told] == ["l2norm", "rmsnorm", None]
    normscope.register(Offset, kind="groupnorm")
    known = registered(Offset())
    assert known is not None
    assert known.kind == "groupnorm"


def test_what_is_no_class_of_modules_is_refused() -> None:
    for wrong in (Scaler(), int, "Scaler", None):
        with pytest.raises(UsageError, match=r"is not a class of modules; expected a subclass"):
            normscope.register(wrong)  # type: ignore[type-var]
    assert Scaler not in registry._CLASSES


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="kind is 'batch'; expected one of layernorm, rmsnorm"):
        normscope.register(Scaler, kind="batch")
    assert Scaler not in registry._CLASSES
