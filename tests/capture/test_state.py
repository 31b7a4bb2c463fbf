"""What a recorder has measured, as plain values and tensors: another goes on from it, whatever the layers."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.capture.recorder import Recorder
from normscope.capture.state import COUNTS, NormState, RecorderState
from normscope.errors import ReportError
from normscope.norms import registry
from normscope.results.json_codec import from_plain, to_plain
from tests.norms.test_gating import GatedNorm
from tests.norms.test_registry import Scaler, by_mean_size
from tests.support.reports_alike import furthest


class ChannelNorm(nn.Module):
    """Normalises over axis 1, as no name of it says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return y * self.weight[:, None] + self.bias[:, None]


class HeadRMSNorm(nn.Module):
    """Normalises each of three heads, and has an affine of its own for each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(12) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return y * self.weight.view(3, 4)


class Model(nn.Module):
    """A layer of every sort, the first of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.channels, self.heads = nn.LayerNorm(6), ChannelNorm(), HeadRMSNorm()
        self.gated, self.scaler = GatedNorm(True, "silu"), Scaler()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        torch.manual_seed(int(input_ids.sum()))
        b, t = input_ids.shape
        self.twice(2 * self.twice(torch.randn(b, t, 6)))
        self.channels(torch.randn(b, 6, t))
        self.heads(torch.randn(b, t, 3, 4))
        self.gated(torch.randn(b, t, 8), torch.randn(b, t, 8))
        out: Tensor = self.scaler(torch.randn(b, t, 6), 1.0)
        return out


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    normscope.register(Scaler, by_mean_size)
    return Model()


def run(recorder: Recorder, model: Model, seeds: range) -> Recorder:
    lengths = torch.tensor([7, 4, 1])
    mask = torch.arange(7) < lengths[:, None]
    with recorder, torch.no_grad():
        for seed in seeds:
            # The first token does not count, as where special ones are left out.
            with recorder.batch(mask & (torch.arange(7) > 0)):
                model(torch.full((3, 7), seed), mask.long())
    return recorder


def taken(recorder: Recorder) -> RecorderState:
    """Return its state as a file would bring it back."""
    state = RecorderState.of(recorder)
    tensors = {name: values.clone() for name, values in state.tensors.items()}
    return replace(from_plain(RecorderState, json.loads(json.dumps(to_plain(state)))), tensors=tensors)


def settled(recorder: Recorder) -> list[tuple[NormState, bool]]:
    norms = [capture.norm for capture in recorder.captures]
    return [(NormState.of(norm), norm.formula is not None and norm.formula.own is not None) for norm in norms]


@pytest.mark.parametrize("per_call", [False, True])
def test_another_watcher_goes_on(model: Model, per_call: bool) -> None:
    one, other, whole = (Recorder(model, per_call=per_call) for _ in range(3))
    run(one, model, range(3))
    state = taken(one)
    state.give(other)
    # Before any forward of its own.
    assert repr(settled(other)) == repr(settled(one))  # An eps may be NaN.
    assert furthest(one.report().to_dict(), other.report().to_dict()) == 0.0
    run(other, model, range(3, 5))
    run(whole, model, range(5))
    assert furthest(whole.report().to_dict(), other.report().to_dict()) < 1e-12


def test_every_count_goes_on(model: Model) -> None:
    one, other = Recorder(model), Recorder(model)
    run(one, model, range(2))
    counts = {name: getattr(one.tally, name) for name in COUNTS}
    assert len(set(counts.values())) == len(COUNTS), "each must be told from the others"
    taken(one).give(other)
    assert {name: getattr(other.tally, name) for name in COUNTS} == counts


def test_notes_and_the_layers_own_names_go_on(model: Model) -> None:
    one, other = Recorder(model), Recorder(model)
    run(one, model, range(1))
    one.scope_notes["a forward had no mask"] = None
    state = taken(one)
    state.give(other)
    assert list(other.scope_notes) == ["a forward had no mask"]
    renamed = replace(state, layers=(replace(state.layers[0], name="thrice"), *state.layers[1:]))
    with pytest.raises(ReportError, match="the layers in it are not those that are measured now"):
        renamed.give(Recorder(model))
