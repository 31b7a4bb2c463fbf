"""Gated norms: a second input, activated, multiplies what is normalised or the output.

Qwen3-Next normalises and then gates, Mamba 2 gates and then normalises. In the second case the layer
normalises the gated input, so statistics are taken of the gated input.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "sigmoid": Tensor.sigmoid}


@dataclass(frozen=True)
class Gate:
    """How a norm uses its gate: `before` or after it normalises, with this `activation`."""

    before: bool
    activation: str

    def factor(self, gate: Tensor) -> Tensor:
        """Return the activated gate, in float32 or float64: the factor of the input or of the output."""
        wide = gate.detach() if gate.dtype == torch.float64 else gate.detach().float()
        return _ACTIVATIONS[self.activation](wide)


GATES = tuple(Gate(before, activation) for before in (False, True) for activation in _ACTIVATIONS)
