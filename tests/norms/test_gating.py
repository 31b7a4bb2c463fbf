"""Gated norms: the gate's place and activation are told by what the layer does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normscope

ACTIVATIONS: dict[str, Any] = {"silu": functional.silu, "sigmoid": torch.sigmoid}


class GatedNorm(nn.Module):
    def __init__(self, before: bool, activation: str) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(8) + 0.5), 1e-6
        self.before, self.activation = before, ACTIVATIONS[activation]

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        factor = self.activation(gate)
        x = x * factor if self.before else x
        y = self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return y if self.before else y * factor


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gates_place_is_told_by_the_output(before: bool, activation: str, dtype: Any) -> None:
    torch.manual_seed(0)
    norm = GatedNorm(before, activation).to(dtype)
    x, gate = (torch.randn(4, 9, 8).to(dtype) for _ in range(2))
    with normscope.watch(norm) as watcher, torch.no_grad():
        norm(x, gate)
        norm(x, gate=gate)
    layer = watcher.report().layers["GatedNorm"]
    assert layer.kind == "rmsnorm"
    assert layer.own_error < (1e-5 if dtype == torch.float32 else 0.1)
    assert layer.feature is not None
    normalised = x.double() * ACTIVATIONS[activation](gate.double()) if before else x.double()
    expected = normalised.reshape(-1, 8).numpy().var(0)
    np.testing.assert_allclose(
        layer.feature.variance, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2
    )
