"""Normalization formulas: from rows x to y, and through the affine to the layer's output.

PyTorch's definitions: nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm1d,
nn.functional.normalize.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from normscope.norms.registry import Normalise, registered
from normscope.statistics.moments import Labels, Moments, Rows

# What is tried where a module hard-codes its eps, as OLMo's does.
_UNSAID_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
_EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")
_ACTIVATION_NAMES = ("activation", "act", "act_fn")


@dataclass(frozen=True)
class Formula:
    """One way to normalise rows x of D features: y = (x - centre) / sqrt(power + eps).

    `kind` "layernorm" has the row's mean as centre and its variance as power, "rmsnorm" 0 and the
    mean square, both of each of the `groups` that the row's features fall into; "l2norm" is
    x / max(||x||, eps) or, with the eps `inside` the root, x / sqrt(||x||^2 + eps). "batchnorm" has
    the running statistics per feature (in training the batch's), and "groupnorm" the statistics of
    the row's sample over all its positions and one of the `groups`; with a group for each feature
    that is "instancenorm".

    The affine is y * (offset + weight) + bias, with the parts that the module has. It is the
    module's `activation` that comes last where that is set; a `prescaled` formula normalises
    x * (offset + weight) and has no affine, and a `bare` one is compared before the affine. `own` is
    a registered class's own way to y.
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
        """Whether it is LayerNorm or RMSNorm over all features of a row, with nothing around it."""
        odd = self.groups > 1 or self.prescaled or self.activation is not None or self.own is not None
        return self.kind in ("layernorm", "rmsnorm") and not odd

    def normalise(self, module: nn.Module, rows: Rows, sample: Labels, *, spend: bool = False) -> Tensor:
        """Return y (V, D), what the module makes of the rows before its affine.

        It may take the memory of `rows.centred`, if that may be spent.
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
            given = rows.centred if self.kind == "layernorm" else rows.x
            return torch.mul(given, self.row_scale(rows), out=rows.centred if spend else None)
        squared = (rows.variance + rows.mean.square()) * rows.x.shape[1]
        if self.inside:
            return rows.x * (squared + self.eps).rsqrt()
        return rows.x / squared.sqrt().clamp(min=self.eps)

    def row_scale(self, rows: Rows) -> Tensor:
        """Return 1 / sqrt(power + eps) (V, 1) of a layernorm or an rmsnorm: its scale of each row."""
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
        """Return the layer's output (V, D) as this formula has it, in the memory `out` or other."""
        if self.bare or self.prescaled:
            return y
        scale, bias = self._scale(module, y), fitting(module, "bias", y.shape[1], y.dtype)
        made = torch.mul(y, scale, out=out) if bias is None else torch.addcmul(bias, y, scale, out=out)
        return made if self.activation is None else getattr(module, self.activation)(made)

    def weight_and_bias(self, module: nn.Module, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what y is multiplied by and what is added then, (features,) each."""
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
    """Return BatchNorm's mean and variance (D,): the running ones, or the rows' in training."""
    mean, power = (vector(module, name, rows.x.dtype) for name in ("running_mean", "running_var"))
    learns = module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
    if mean is None or power is None or learns:
        return rows.x.mean(0), rows.x.var(0, correction=0)
    return mean, power


def formulas(module: nn.Module, features: int, dtype: torch.dtype, *, bare: bool = False) -> list[Formula]:
    """List the formulas that `module` may follow on rows of `features`, the likeliest first."""
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
    # Frozen BatchNorms are classes of their own, known by what they store.
    if all(v is not None for v in stored) or isinstance(module, nn.modules.batchnorm._BatchNorm):
        return [Formula("batchnorm", eps) for eps in choices]
    kinds = ("rmsnorm", "layernorm") if says_rms(module) else ("layernorm", "rmsnorm")
    offsets = (0.0,) if bare else _offsets(module)
    return [Formula(kind, e, o, bare=bare) for kind, o, e in product(kinds, offsets, choices)]


def rarer_formulas(module: nn.Module, features: int, dtype: torch.dtype) -> Iterator[Formula]:
    """Give the formulas to try where none of `formulas` fits: by groups, by length, scaled before."""
    for name in _ACTIVATION_NAMES:
        if callable(getattr(module, name, None)):
            for known in formulas(module, features, dtype):
                yield Formula(known.kind, known.eps, known.offset, known.groups, activation=name)
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
    return _UNSAID_EPS if math.isnan(eps) else (eps,)


def _offsets(module: nn.Module) -> tuple[float, ...]:
    return (0.0, 1.0) if vector(module, "weight") is not None else (0.0,)


def _group_counts(module: nn.Module, features: int) -> list[int]:
    """Into how many equal groups the features may fall: the module's own whole numbers say it."""
    held = [v for v in vars(module).values() if isinstance(v, int) and not isinstance(v, bool)]
    whole = [n for n in held if 1 < n < features and features % n == 0]
    return list(dict.fromkeys(count for n in whole for count in (n, features // n)))


def module_eps(module: nn.Module, dtype: torch.dtype | None = None) -> float:
    """Return the module's eps, NaN when it holds none.

    nn.RMSNorm's None means the machine epsilon of `dtype`, the one it computes in: float64 for
    float64, else float32.
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
    """Whether the class's name says that it takes the root mean square."""
    return "rms" in type(module).__name__.lower()


def vector(module: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Return a parameter or buffer of the module as a flat vector, None when it has none."""
    value = getattr(module, name, None)
    return value.detach().to(dtype).reshape(-1) if isinstance(value, Tensor) else None


def stored_statistics(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return a BatchNorm's running mean and variance (D,) in float64, None where it has none."""
    mean, variance = (vector(module, name, torch.float64) for name in ("running_mean", "running_var"))
    return None if mean is None or variance is None else (mean, variance)


def fitting(module: nn.Module, name: str, features: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Return the same where it is a number, or one a feature: a vector of another size is not used."""
    value = vector(module, name, dtype)
    return value if value is not None and value.numel() in (1, features) else None
