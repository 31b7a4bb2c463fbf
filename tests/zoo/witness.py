"""What a model's norm layers really do, seen by plain hooks that share nothing with normscope."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NAMES = re.compile(r"norm|GRN|CMVN|L2Clip", re.IGNORECASE)
BY_CLASS = (
    (nn.modules.batchnorm._BatchNorm, "batchnorm"),
    (nn.GroupNorm, "groupnorm"),
    (nn.modules.instancenorm._InstanceNorm, "instancenorm"),
)
# An output that a formula gives to this share of its rms is that formula's.
CLOSE = 1e-3


@dataclass
class Witness:
    """One module that may normalise, and the inputs and outputs of its calls, in float64."""

    name: str
    module: nn.Module
    calls: list[tuple[Tensor, Any]] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)

    @property
    def cls(self) -> str:
        """The module's class."""
        return type(self.module).__name__

    @property
    def shapes(self) -> str:
        """The shapes of its inputs, each once."""
        return " ".join(dict.fromkeys(str(tuple(x.shape)) for x, _ in self.calls))

    def channel_first(self) -> bool:
        """Whether the features are axis 1."""
        x, module = self.calls[0][0], self.module
        if isinstance(module, tuple(kind for kind, _ in BY_CLASS)) or "BatchNorm" in self.cls:
            return True
        shape, size = getattr(module, "normalized_shape", ()), _size(getattr(module, "weight", None))
        if getattr(module, "data_format", "") == "channels_first":
            return True
        last = isinstance(shape, tuple) and tuple(x.shape[-len(shape) :]) == tuple(shape)
        return bool(size) and not last and x.dim() > 2 and x.shape[-1] != size == x.shape[1]

    def features(self) -> int:
        """Return how many features its input has."""
        return self.rows(self.calls[0][0]).shape[-1]

    def rows(self, x: Tensor) -> Tensor:
        """Return x with its features last and in one axis, (..., D)."""
        if self.channel_first():
            return x.movedim(1, -1) if x.dim() > 2 else x
        shape = getattr(self.module, "normalized_shape", ())
        several = isinstance(shape, tuple) and len(shape) > 1 and tuple(x.shape[-len(shape) :]) == shape
        return x.flatten(-len(shape)) if several else x

    def speaks(self) -> bool:
        """Whether any output is not zero, so that it can prove a formula."""
        return any(not isinstance(y, Tensor) or bool(y.any()) for _, y in self.calls)

    def kind(self) -> str | None:
        """Say what the module does to its first input, None when no formula here tells."""
        for cls, name in BY_CLASS:
            if isinstance(self.module, cls):
                return name
        x, y = self.calls[0]
        if not isinstance(y, Tensor) or y.shape != x.shape or not bool(y.any()):
            return None
        # What grows with its input is no norm, whatever it is called.
        return self._fitting() or ("other" if not self.gates and not _ignores_scale(self) else None)

    def _fitting(self, factor: Tensor | None = None) -> str | None:
        """Name what gives the first call's output, times a factor if there is one."""
        x, y = self.calls[0]
        scale = float(y.double().square().mean().sqrt())
        for name, base in self._bases(self.rows(x)):
            for affine in self._affines(base):
                expected = affine if factor is None else affine * factor
                if float((expected - self.rows(y.double())).square().mean().sqrt()) <= CLOSE * scale:
                    return name
        return None

    def gated(self) -> "Witness | None":
        """Return the same with its gated input for input, if it gates by silu before it normalises."""
        if not self.gates or len(self.gates) < len(self.calls):
            return None
        if any(self._fitting(gate(self.gates[0])) for gate in (functional.silu, torch.sigmoid)):
            return None  # It gates what it has normalised.
        calls = [(x * functional.silu(g), y) for (x, y), g in zip(self.calls, self.gates, strict=True)]
        return Witness(self.name, self.module, calls)

    def _bases(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        centred, square = x - x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True)
        held = [v for k, v in vars(self.module).items() if "eps" in k and isinstance(v, float)]
        for eps in held or [0.0, 1e-5, 1e-6, 1e-12]:
            yield "layernorm", centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
            yield "rmsnorm", x * (square + eps).rsqrt()
            yield "l2norm", x * (x.square().sum(-1, keepdim=True) + eps).rsqrt()
            mean, power = (getattr(self.module, name, None) for name in ("running_mean", "running_var"))
            if isinstance(mean, Tensor) and isinstance(power, Tensor):
                yield "batchnorm", (x - mean.double()) * (power.double() + eps).rsqrt()
        yield "other", x  # An affine alone, or nothing.

    def _affines(self, base: Tensor) -> Iterator[Tensor]:
        weight, bias = (getattr(self.module, name, None) for name in ("weight", "bias"))
        shift = bias.detach().double().squeeze() if isinstance(bias, Tensor) else 0.0
        scales = [weight.detach().double().squeeze()] if isinstance(weight, Tensor) else [torch.ones(())]
        for scale in (*scales, *(1 + s for s in scales if isinstance(weight, Tensor)), torch.ones(())):
            try:
                yield base * scale + shift
            except RuntimeError:  # Parameters of other sizes.
                continue


class Witnesses:
    """Hooks on every module that may normalise, as a context manager."""

    def __init__(self, model: nn.Module) -> None:
        self.all = {name: Witness(name, module) for name, module in suspects(model)}
        self._others = {name: Witness(name, m) for name, m in unnamed(model) if name not in self.all}
        self._handles: list[Any] = []

    def __enter__(self) -> "Witnesses":
        for witness in (*self.all.values(), *self._others.values()):
            hook = witness.module.register_forward_hook(_recorder(witness), with_kwargs=True)
            self._handles.append(hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def normalisers(self) -> Iterator[Witness]:
        """Give the modules without "norm" in their names whose output ignores their input's scale."""
        for witness in self._others.values():
            if witness.calls and _ignores_scale(witness):
                yield witness


def suspects(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give the modules that are named like a norm and hold no other and no matrix below them."""
    for name, module in model.named_modules():
        named = NAMES.search(type(module).__name__) and "parametrizations" not in name.split(".")
        below = [child for child in module.modules() if child is not module]
        inner = any(NAMES.search(type(child).__name__) for child in below)
        if named and not inner and not any(p.dim() > 1 for child in below for p in child.parameters()):
            yield name or type(module).__name__, module


def unnamed(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give the small modules of other names: no matrix and no norm in them, and not torch's own."""
    norms = {module for _, module in suspects(model)}
    for name, module in model.named_modules():
        own = type(module).__module__.startswith("torch.") or not norms.isdisjoint(module.modules())
        if name and not own and not any(p.dim() > 1 for p in module.parameters()):
            yield name, module


def _recorder(witness: Witness) -> Any:
    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if given is not None and given.is_floating_point() and given.numel():
            kept = output.detach().clone() if isinstance(output, Tensor) else output
            witness.calls.append((given.detach().double(), kept))
            tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
            witness.gates += [v.detach().double() for v in tensors[1:2] if v.shape == given.shape]

    return record


def _ignores_scale(witness: Witness) -> bool:
    x, y = witness.calls[0]
    if not isinstance(y, Tensor) or y.shape != x.shape or not y.is_floating_point():
        return False
    if not bool(y.any()) or torch.equal(y.double(), x) or not x.numel():
        return False
    try:
        with torch.no_grad():
            larger = witness.module.forward((x * 3).to(y.dtype))
            other = witness.module.forward(torch.randn_like(y))
    except Exception:
        return False
    if not isinstance(other, Tensor) or torch.equal(other, y):
        return False  # It does not read its input at all.
    if not isinstance(larger, Tensor) or larger.shape != y.shape:
        return False
    return bool(torch.allclose(larger, y, rtol=1e-2, atol=1e-3 * float(y.abs().max())))


def _size(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 0
