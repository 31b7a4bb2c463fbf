"""Gaps between a formula and a layer's outputs: what counts, and how often the host waits for a device."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import normscope
from normscope.capture import fused_sums as one_pass
from normscope.capture.layer_capture import LayerCapture
from normscope.statistics import extremes, outliers
from normscope.statistics.layer_state import LayerState
from tests.support import running


def test_the_worst_gap_and_the_squares_over_finite_rows() -> None:
    state = LayerState(worst_error=0.1, output_square=1.0, output_size=3)
    out = torch.tensor([[1.0, 2.0], [math.inf, 0.0], [3.0, -4.0], [math.nan, 1.0]])
    running.add_errors(state, torch.tensor([[1.5, 2.0], [9.0, 9.0], [3.0, -4.25], [0.0, 99.0]]), out)
    running.add_errors(state, torch.tensor([[0.0, 0.0]]), torch.tensor([[-0.125, 0.0]]))
    state.flush()
    assert (state.worst_error, state.output_size) == (0.5, 3 + 6)
    assert state.output_square == pytest.approx(1 + 5 + 25 + 0.125**2)
    state.flush()
    assert state.output_size == 9


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators whose result depends on a device's data: on a GPU the host waits for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        if name.split(".")[0] in {
            "_local_scalar_dense",
            "nonzero",
            "equal",
            "unique_consecutive",
            "bincount",
        }:
            self.counted.append(name)
        return function(*args, **(kwargs or {}))


def test_the_host_waits_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of a layer has one data-dependent operator: is every token finite, may any be massive?"""
    monkeypatch.setattr(one_pass, "AFTER", sys.maxsize)
    monkeypatch.setattr(outliers, "_large", lambda sizes: ((sizes >= 6).sum(0).double(), sizes.amax(0)))
    monkeypatch.setattr(extremes, "_reads_at_once", lambda value: False)
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))
    reads, add = HostReads(), LayerCapture.add
    calls: list[int] = []

    def counted(self: LayerCapture, *given: Any, **named: Any) -> None:
        before = len(reads.counted)
        add(self, *given, **named)
        calls.append(len(reads.counted) - before)

    watcher = normscope.watch(model)
    with watcher:
        model(torch.randn(4, 5, 8))
        monkeypatch.setattr(LayerCapture, "add", counted)
        with reads:
            for _ in range(3):
                model(torch.randn(4, 5, 8))
    # The first layer of a forward finds out, for all of them, whose rows the sizes are.
    assert calls[1::2] == [1, 1, 1]
