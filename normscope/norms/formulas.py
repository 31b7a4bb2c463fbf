"""Normalization formulas: from rows x to y, and through the affine to the layer's output.

PyTorch's definitions: nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm1d,
nn.functional.normalize.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.norms.registry import Normalise, registered
from normscope.statistics.moments import Labels, Moments, Rows

# The values to try if a module hard-codes its eps, as OLMo's does.
_COMMON_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")
_ACTIVATION_NAMES = ("activation", "act", "act_fn")
_GATE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "sigmoid": Tensor.sigmoid,
}


@dataclass(frozen=True)
class Gate:
    """How a norm uses a second input, its gate: `before` or after it normalises, with this `activation`.

    Mamba 2 gates and then normalises: statistics are taken of the gated input. Qwen3-Next normalises and
    then gates.
    """

    before: bool
    activation: str

    def factor(self, gate: Tensor) -> Tensor:
        """Return the activated gate, in float32 or float64: the factor of the input or of the output."""
        wide = gate.detach() if gate.dtype == torch.float64 else gate.detach().float()
        return _GATE_ACTIVATIONS[self.activation](wide)


GATES = tuple(Gate(before, activation) for before in (False, True) for activation in _GATE_ACTIVATIONS)


@dataclass(frozen=True)
class Formula:
    """One way to normalise rows x of D features: y = (x - centre) / sqrt(power + eps).

    If `kind` is "layernorm", the centre is the row's mean and the power is its variance. If it is
    "rmsnorm", the centre is 0 and the power is the mean square. "l2norm" is x / max(||x||, eps) or, with
    the eps `inside` the root, x / sqrt(||x||^2 + eps). These three are computed within each of the
    `groups` into which the features of a row are divided. "batchnorm" uses the running statistics per
    feature (in training, those of the batch). "groupnorm" uses the statistics of the row's sample over
    all its positions and one of the `groups`; with one group per feature it is "instancenorm".

    The affine is y * (offset + weight) + bias, with the parts that the module has. If `activation` is
    set, the module's attribute of that name is applied last. A `prescaled` formula normalises x * (offset
    + weight) and has no affine. A `bare` formula is compared before the affine. `own` is a registered
    class's own function for y.
    """

    kind: str
    eps: float
    offset: float = 0.0
    groups: int = 1
    inside: bool = False
    prescaled: bool = False
    bare: bool = False
    activation: str | None = None
    own: Normalise | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is LayerNorm or RMSNorm over all features of a row, with nothing before or after it."""
        odd = self.groups > 1 or self.prescaled or self.activation is not None or self.own is not None
        return self.kind in ("layernorm", "rmsnorm") and not odd

    def normalise(self, module: nn.Module, rows: Rows, sample: Labels, *, spend: bool = False) -> Tensor:
        """Return y (V, D): the rows as the module normalises them, before its affine.

        With `spend`, the result may overwrite `rows.centred`.
        """
        if self.own is not None:
            return self.own(module, rows.x)
        if self.prescaled:
            rows = Rows.of(rows.x * self._scale(module, rows.x))
        if self.kind == "batchnorm":
            mean, power = _batch_statistics(module, rows)
            return (rows.x - mean) * (power + self.eps).rsqrt()
        if self.kind in ("groupnorm", "instancenorm"):
            mean, power = self._by_sample(rows, sample)
            return (rows.x - mean[sample.group]) * (power + self.eps).rsqrt()[sample.group]
        if self.groups == 1:
            return self._by_row(rows, spend=spend)
        return self._by_row(Rows.of(rows.x.reshape(-1, rows.x.shape[1] // self.groups))).reshape(rows.x.shape)

    def _by_row(self, rows: Rows, *, spend: bool = False) -> Tensor:
        if self.kind in ("layernorm", "rmsnorm"):
            x = rows.centred if self.kind == "layernorm" else rows.x
            return torch.mul(x, self.row_scale(rows), out=rows.centred if spend else None)
        squared = (rows.variance + rows.mean.square()) * rows.x.shape[1]
        if self.inside:
            return rows.x * (squared + self.eps).rsqrt()
        return rows.x / squared.sqrt().clamp(min=self.eps)

    def row_scale(self, rows: Rows) -> Tensor:
        """Return the scale of each row of a layernorm or rmsnorm, 1 / sqrt(power + eps), (V, 1)."""
        power = rows.variance if self.kind == "layernorm" else rows.variance + rows.mean.square()
        return (power + self.eps).rsqrt()

    def _by_sample(self, rows: Rows, sample: Labels) -> tuple[Tensor, Tensor]:
        cells = Moments.by_group(rows.x, sample)  # (B, D)
        shape = (len(cells.mean), self.groups, -1)
        grouped = Moments(cells.count[:, :, None], cells.mean.reshape(shape), cells.m2.reshape(shape)).pool(2)
        both = (grouped.mean.to(rows.x.dtype), grouped.variance().to(rows.x.dtype))  # (B, groups, 1)
        mean, power = (v.expand(-1, -1, cells.mean.shape[1] // self.groups).flatten(1) for v in both)
        return mean, power  # (B, D)

    def affine(self, module: nn.Module, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the layer's output (V, D) by this formula, from y; `out` may be used as its memory."""
        if self.bare or self.prescaled:
            return y
        scale, bias = self._scale(module, y), fitting(module, "bias", y.shape[1], y.dtype)
        output = torch.mul(y, scale, out=out) if bias is None else torch.addcmul(bias, y, scale, out=out)
        return output if self.activation is None else getattr(module, self.activation)(output)

    def weight_and_bias(self, module: nn.Module, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the affine's weight and bias, (features,) each: 1 and 0 where the module has none."""
        weight, bias = self._weight(module, features, dtype), fitting(module, "bias", features, dtype)
        return _expanded(weight, 1.0, features, dtype), _expanded(bias, 0.0, features, dtype)

    def _scale(self, module: nn.Module, like: Tensor) -> Tensor:
        weight = self._weight(module, like.shape[1], like.dtype)
        return torch.ones((), dtype=like.dtype, device=like.device) if weight is None else weight

    def _weight(self, module: nn.Module, features: int, dtype: torch.dtype) -> Tensor | None:
        weight = fitting(module, "weight", features, dtype)
        return weight if weight is None or not self.offset else self.offset + weight


def _expanded(values: Tensor | None, default: float, features: int, dtype: torch.dtype) -> Tensor:
    if values is None:
        return torch.full((features,), default, dtype=dtype)
    return values if values.numel() == features else values.expand(features).contiguous()


def _batch_statistics(module: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return BatchNorm's mean and variance (D,): the running ones or, in training, those of the rows."""
    mean, power = (vector(module, name, rows.x.dtype) for name in ("running_mean", "running_var"))
    learns = module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
    if mean is None or power is None or learns:
        return rows.x.mean(0), rows.x.var(0, correction=0)
    return mean, power


def formulas(module: nn.Module, features: int, dtype: torch.dtype, *, bare: bool = False) -> list[Formula]:
    """List the formulas that `module` may follow on rows of `features` features, the most likely first."""
    eps = module_eps(module, dtype)
    own = registered(module)
    if own is not None and own.normalise is not None:
        return [Formula(own.kind, eps, offset, own=own.normalise) for offset in _offsets(module)]
    if isinstance(module, nn.GroupNorm):
        return [Formula("groupnorm", eps, groups=module.num_groups)]
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        running = module.track_running_stats and not module.training
        return [Formula("batchnorm", eps) if running else Formula("instancenorm", eps, groups=features)]
    choices = _eps_choices(eps)
    stored = [vector(module, name) for name in ("running_mean", "running_var")]
    if any(v is not None and v.numel() != features for v in stored):
        return []
    # Frozen BatchNorms have classes of their own; their running statistics identify them.
    if all(v is not None for v in stored) or isinstance(module, nn.modules.batchnorm._BatchNorm):
        return [Formula("batchnorm", eps) for eps in choices]
    kinds = ("rmsnorm", "layernorm") if says_rms(module) else ("layernorm", "rmsnorm")
    offsets = (0.0,) if bare else _offsets(module)
    return [Formula(kind, e, o, bare=bare) for kind, o, e in product(kinds, offsets, choices)]


def rarer_formulas(module: nn.Module, features: int, dtype: torch.dtype) -> Iterator[Formula]:
    """Yield the formulas to try if none of `formulas` fits.

    They add an activation, normalise by the length or by groups, or scale before they normalise.
    """
    for name in _ACTIVATION_NAMES:
        if callable(getattr(module, name, None)):
            for formula in formulas(module, features, dtype):
                yield Formula(formula.kind, formula.eps, formula.offset, formula.groups, activation=name)
    if isinstance(module, nn.GroupNorm | nn.modules.batchnorm._NormBase):
        return
    choices, offsets = _eps_choices(module_eps(module, dtype)), _offsets(module)
    for eps, offset in product(choices, offsets):
        yield Formula("l2norm", eps, offset)
        yield Formula("l2norm", eps, offset, inside=True)
        for groups in _group_counts(module, features):
            yield from (Formula(kind, eps, offset, groups) for kind in ("rmsnorm", "layernorm", "l2norm"))
        if fitting(module, "weight", features) is not None:
            yield Formula("rmsnorm", eps, offset, prescaled=True)
            yield Formula("layernorm", eps, offset, prescaled=True)


def _eps_choices(eps: float) -> tuple[float, ...]:
    return _COMMON_EPS if math.isnan(eps) else (eps,)


def _offsets(module: nn.Module) -> tuple[float, ...]:
    return (0.0, 1.0) if vector(module, "weight") is not None else (0.0,)


def _group_counts(module: nn.Module, features: int) -> list[int]:
    """Return the numbers of equal groups that the features may have, from the module's own integers."""
    integers = [v for v in vars(module).values() if isinstance(v, int) and not isinstance(v, bool)]
    divisors = [n for n in integers if 1 < n < features and features % n == 0]
    return list(dict.fromkeys(count for n in divisors for count in (n, features // n)))


def module_eps(module: nn.Module, dtype: torch.dtype | None = None) -> float:
    """Return the module's eps, NaN if it has none.

    An eps of None in nn.RMSNorm means the machine epsilon of the dtype that it computes in: float64 if
    `dtype` (or the weight's, if that is None) is float64, otherwise float32.
    """
    for name in _EPS_NAMES:
        value = getattr(module, name, None)
        if isinstance(value, float | int):
            return float(value)
    if isinstance(module, nn.RMSNorm):
        own = getattr(module.weight, "dtype", torch.float32)
        return float(torch.finfo(torch.float64 if (dtype or own) == torch.float64 else torch.float32).eps)
    return math.nan


def says_rms(module: nn.Module) -> bool:
    """Whether the name of the module's class contains "rms"."""
    return "rms" in type(module).__name__.lower()


def vector(module: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Return the module's parameter or buffer `name` as a flat vector, None if it has no such tensor."""
    value = getattr(module, name, None)
    return value.detach().to(dtype).reshape(-1) if isinstance(value, Tensor) else None


def stored_statistics(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return a BatchNorm's running mean and variance (D,) in float64, None if it has none."""
    mean, variance = (vector(module, name, torch.float64) for name in ("running_mean", "running_var"))
    return None if mean is None or variance is None else (mean, variance)


def fitting(module: nn.Module, name: str, features: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Return `vector(module, name, dtype)` if it has 1 or `features` elements, otherwise None."""
    value = vector(module, name, dtype)
    return value if value is not None and value.numel() in (1, features) else None
