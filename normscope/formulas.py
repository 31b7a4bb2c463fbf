"""The ways to normalise: a formula turns rows x into y, and its affine y into a layer's output.

PyTorch's definitions: nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d, nn.GroupNorm, nn.InstanceNorm1d.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.moments import Labels, Moments, Rows

# What is tried where a module hard-codes its eps, as OLMo's does.
UNSAID_EPS = (1e-5, 1e-6, 1e-8, 1e-12, 0.0)
EPS_NAMES = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps")


@dataclass(frozen=True)
class Formula:
    """One way to normalise rows x of D features: y = (x - centre) / sqrt(power + eps).

    `kind` "layernorm" has the row's mean as centre and its variance as power, "rmsnorm" 0 and the
    mean square, "batchnorm" the running statistics per feature (in training the batch's), and
    "groupnorm" the statistics of the row's sample over all its positions and one of the `groups`
    that its features fall into; with a group for each feature that is "instancenorm". The affine
    is y * (offset + weight) + bias, with the parts that the module has.
    """

    kind: str
    eps: float
    offset: float = 0.0
    groups: int = 1

    def normalise(self, module: nn.Module, rows: Rows, sample: Labels) -> Tensor:
        """Return y (V, D), what the module makes of the rows before its affine."""
        if self.kind == "layernorm":
            return rows.centred * (rows.variance + self.eps).rsqrt()
        if self.kind == "rmsnorm":
            return rows.x * (rows.variance + rows.mean.square() + self.eps).rsqrt()
        if self.kind == "batchnorm":
            mean, power = batch_statistics(module, rows)
            return (rows.x - mean) * (power + self.eps).rsqrt()
        mean, power = self._by_sample(rows, sample)
        return (rows.x - mean[sample.group]) * (power + self.eps).rsqrt()[sample.group]

    def _by_sample(self, rows: Rows, sample: Labels) -> tuple[Tensor, Tensor]:
        cells = Moments.by_group(rows.x, sample)  # (B, D)
        shape = (len(cells.mean), self.groups, -1)
        grouped = Moments(cells.count[:, :, None], cells.mean.reshape(shape), cells.m2.reshape(shape)).pool(2)
        both = (grouped.mean.to(rows.x.dtype), grouped.variance().to(rows.x.dtype))  # (B, groups, 1)
        mean, power = (v.expand(-1, -1, cells.mean.shape[1] // self.groups).flatten(1) for v in both)
        return mean, power  # (B, D)

    def affine(self, module: nn.Module, y: Tensor) -> Tensor:
        """Return the layer's output (V, D) as this formula has it."""
        weight, bias = (vector(module, name, y.dtype) for name in ("weight", "bias"))
        scale = torch.ones((), dtype=y.dtype, device=y.device) if weight is None else self.offset + weight
        return y * scale if bias is None else torch.addcmul(bias, y, scale)


def batch_statistics(module: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return BatchNorm's mean and variance (D,): the running ones, or the rows' in training."""
    mean, power = (vector(module, name, rows.x.dtype) for name in ("running_mean", "running_var"))
    learns = module.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
    if mean is None or power is None or learns:
        return rows.x.mean(0), rows.x.var(0, correction=0)
    return mean, power


def formulas(module: nn.Module, features: int, dtype: torch.dtype) -> list[Formula]:
    """List the formulas that `module` may follow on rows of `features`, the likeliest first."""
    eps = module_eps(module, dtype)
    vectors = [vector(module, name) for name in ("weight", "bias", "running_mean", "running_var")]
    if any(v is not None and v.numel() not in (1, features) for v in vectors):
        return []
    if isinstance(module, nn.GroupNorm):
        return [Formula("groupnorm", eps, groups=module.num_groups)]
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        running = module.track_running_stats and not module.training
        return [Formula("batchnorm", eps) if running else Formula("instancenorm", eps, groups=features)]
    choices = UNSAID_EPS if math.isnan(eps) else (eps,)
    # Frozen BatchNorms are classes of their own, known by what they store.
    stores = vectors[2] is not None and vectors[3] is not None
    if stores or isinstance(module, nn.modules.batchnorm._BatchNorm):
        return [Formula("batchnorm", eps) for eps in choices]
    offsets = (0.0, 1.0) if vector(module, "weight") is not None else (0.0,)
    kinds = ("rmsnorm", "layernorm") if says_rms(module) else ("layernorm", "rmsnorm")
    return [Formula(kind, eps, offset) for kind in kinds for offset in offsets for eps in choices]


def module_eps(module: nn.Module, dtype: torch.dtype | None = None) -> float:
    """Return the module's eps, NaN when it holds none.

    nn.RMSNorm's None means the machine epsilon of `dtype`, the one it computes in: float64 for
    float64, else float32.
    """
    for name in EPS_NAMES:
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
