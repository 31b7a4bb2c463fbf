"""Gated norms: a second input, activated, multiplies what is normalised or the output.

Qwen3-Next normalises and then gates, Mamba 2 gates and then normalises. What such a layer
normalises is the gated input in the second case: that is the x whose statistics are taken.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "sigmoid": Tensor.sigmoid}


@dataclass(frozen=True)
class Gate:
    """How a norm uses its gate: `before` or after normalising, by one of the ACTIVATIONS."""

    before: bool
    activation: str

    def factor(self, gate: Tensor) -> Tensor:
        """Return what multiplies: the gate, activated, at least in float32."""
        wide = gate.detach() if gate.dtype == torch.float64 else gate.detach().float()
        return _ACTIVATIONS[self.activation](wide)


GATES = tuple(Gate(before, activation) for before in (False, True) for activation in _ACTIVATIONS)
