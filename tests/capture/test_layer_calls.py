"""Layers that are used several times in a forward: calls pooled, or told apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from typer.testing import CliRunner

import normscope
from normscope.cli.app import app
from tests.support import models

D = 6


class Twice(nn.Module):
    """One norm, before and after a layer, and another that is used once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.last = nn.LayerNorm(D), nn.LayerNorm(D)
        self.linear = nn.Linear(D, D)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.norm(3 * self.linear(self.norm(x)) + 1))


def seen(model: nn.Module, name: str, *inputs: Any) -> list[Any]:
    """The inputs of a layer, call by call, by a hook of our own, in float64."""
    calls: list[Any] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: calls.append(args[0].double().numpy())
    )
    with torch.no_grad():
        for x in inputs:
            model(x)
    handle.remove()
    return calls


def watched(model: nn.Module, *inputs: Any, per_call: bool) -> normscope.Report:
    with normscope.watch(model, per_call=per_call) as watcher, torch.no_grad():
        for x in inputs:
            model(x)
    return watcher.report()


INPUTS = [torch.randn(2, 3, D), torch.randn(4, 3, D)]


def test_calls_are_told_apart_on_request() -> None:
    model = Twice()
    report = watched(model, *INPUTS, per_call=True)
    assert list(report.layers) == ["norm#1", "norm#2", "last"]
    assert [(layer.call, layer.calls, layer.calls_per_forward) for layer in report.layers.values()] == [
        (1, 2, 2),
        (2, 2, 2),
        (1, 2, 1),
    ]
    assert {layer.module_name for layer in report.layers.values()} == {"norm", "last"}
    calls = seen(model, "norm", *INPUTS)
    for i, name in enumerate(("norm#1", "norm#2")):
        expected = np.concatenate([x.reshape(-1, D) for x in calls[i::2]])
        layer = report.layers[name]
        assert layer.feature is not None
        np.testing.assert_allclose(layer.feature.mean, expected.mean(0), atol=1e-6)
        np.testing.assert_allclose(layer.feature.variance, expected.var(0), rtol=1e-5)
        assert layer.own_error < 1e-5
    assert report.warnings == ()


def test_without_a_request_calls_are_pooled_and_it_is_said() -> None:
    model = Twice()
    report = watched(model, *INPUTS, per_call=False)
    layer = report.layers["norm"]
    assert (layer.call, layer.calls, layer.calls_per_forward) == (None, 4, 2)
    expected = np.concatenate([x.reshape(-1, D) for x in seen(model, "norm", *INPUTS)])
    assert layer.feature is not None
    np.testing.assert_allclose(layer.feature.variance, expected.var(0), rtol=1e-5)
    (warning,) = report.warnings
    assert warning.startswith("norm: called up to 2 times in a forward, all calls pooled")


def test_a_layer_that_is_called_on_its_own_has_one_call() -> None:
    model = Twice()
    with normscope.watch(model, per_call=True) as watcher, torch.no_grad():
        for _ in range(5):
            model.norm(INPUTS[0])
    assert list(watcher.report().layers) == ["norm", "last"]
    assert watcher.report().layers["norm"].calls == 5


def albert(words: int = 100) -> Any:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=words,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
    )
    return models.spread_norms(transformers.AlbertModel(config))


def test_albert_shares_one_layer_and_each_pass_through_it_is_a_row() -> None:
    model = albert()
    ids, mask = torch.randint(5, 100, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with normscope.watch(model, per_call=True) as watcher, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    report = watcher.report()
    shared = "encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm"
    names = [name for name in report.layers if name.startswith(shared)]
    assert names == [f"{shared}#{i}" for i in range(1, 5)]
    variances = [report.layers[name].global_.variance for name in names]  # type: ignore[union-attr]
    assert len(set(variances)) == 4
    assert {report.layers[name].count for name in names} == {11}


@pytest.mark.parametrize("per_call", [True, False])
def test_the_command_shows_calls_apart_or_says_that_they_are_pooled(tmp_path: Path, per_call: bool) -> None:
    folder = tmp_path / "albert"
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(models.demo_folder())
    albert(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    flag = ["--per-call"] if per_call else []
    result = CliRunner().invoke(app, ["inspect", str(folder), "hello world", "--json", *flag])
    assert result.exit_code == 0, result.stderr
    names = [layer["name"] for layer in json.loads(result.stdout)["layers"]]
    assert any(name.endswith("#4") for name in names) == per_call
    assert ("all calls pooled" in result.stderr) != per_call
    table = CliRunner().invoke(app, ["inspect", str(folder), "hello", "--layer", "*full_layer*", "-q", *flag])
    assert table.exit_code == 0, table.stderr
    assert table.stdout.count("By position") == (4 if per_call else 1)
