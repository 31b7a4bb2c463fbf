"""A replacement for LayerNorm or RMSNorm with BatchNorm-style statistics."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from normscope.analyses.swap.options import BATCH, BATCHNORM, FITTED, FROZEN, IDENTITY
from normscope.capture.layer_capture import LayerCapture
from normscope.errors import UsageError
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import Formula
from normscope.statistics.layout import to_rows
from normscope.statistics.moments import Moments, Rows
from normscope.statistics.views import cells

# What each kind needs to know of the corpus.
_NEEDS: dict[str, tuple[str, ...]] = {
    BATCHNORM: ("mean", "variance"),
    FITTED: ("slope", "intercept"),
    BATCH: (),
    FROZEN: ("scale",),
    IDENTITY: (),
}


@dataclass(frozen=True)
class Statistics:
    """What a corpus says of one layer with D features: float64 tensors in memory, None where unknown.

    `mean`, `variance` (D,) of the input x; `slope`, `intercept` (D,) of the best line y ~ slope x +
    intercept for each feature of the layer's own output before its affine; `scale` () the mean over
    tokens of 1 / sqrt(power + eps), which the layer multiplies a centred token by.
    """

    mean: Tensor | None = None
    variance: Tensor | None = None
    slope: Tensor | None = None
    intercept: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def of(cls, capture: LayerCapture) -> "Statistics | None":
        """Read them off what a layer has seen, None where it has seen nothing."""
        if capture.moments is None or not capture.moments.count:
            return None
        by_feature = cells(capture.moments, "feature")
        x, scales = by_feature.x, capture.state.scales
        slope = by_feature.co / x.m2.where(x.m2 > 0, torch.inf)  # No line where x is constant: y's mean.
        intercept = by_feature.mean_y - slope * x.mean
        mean, variance, a, b = (table[0].cpu() for table in (x.mean, x.variance(), slope, intercept))
        scale = scales.mean[0, 0].cpu() if scales is not None and float(scales.count) else None
        return cls(mean, variance, a, b, scale)

    def known(self) -> dict[str, Tensor]:
        """Return those that are known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def lacks(self, kind: str) -> list[str]:
        """Name what a kind of replacement needs and is not known."""
        return [name for name in _NEEDS[kind] if getattr(self, name) is None]


@dataclass(frozen=True)
class Line:
    """A replacement as one map for all tokens: y = scale * x + shift, each (D,) float64 in memory.

    Where it is `centred`, of x less its mean over features.
    """

    scale: Tensor
    shift: Tensor
    centred: bool


class Replacement:
    """One layer's output as it would be with other statistics, once the layer's formula is settled.

    `kind` "batchnorm" gives y = (x - mean) / sqrt(variance + eps) with the corpus's statistics per
    feature, "batchnorm-batch" with those of the rows at hand, as nn.BatchNorm1d in training;
    "batchnorm-fitted" y = slope x + intercept, the least-squares line per feature; "frozen" the
    layer's own centring and one scale for all tokens; "identity" y = x. The layer's own affine
    follows. It is differentiable, in x and in the affine.
    """

    def __init__(self, norm: NormLayer, kind: str, statistics: Statistics | None) -> None:
        self.norm, self.kind = norm, kind
        self.statistics = statistics or Statistics()
        self._moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        lacking = self.statistics.lacks(kind)
        if lacking:
            raise UsageError(
                f"{norm.name}: no {' and no '.join(lacking)} in the statistics; expected what {kind} needs; "
                "pass what normscope.calibrate returns"
            )

    def __call__(self, given: Tensor, valid: Tensor | None = None, batch: Moments | None = None) -> Tensor:
        """Return the layer's new output for its input, in its shape and at least float32.

        `valid` (V, D) are the rows of the input that a batch's statistics are taken over, all by default;
        `batch` (1, D) are these where the input is a part of it.
        """
        norm, formula = self.norm, _settled(self.norm)
        x = given if given.dtype == torch.float64 else given.float()
        rows = to_rows(x, norm.feature_axis, norm.features)
        y = self._normalise(rows, formula, rows if valid is None else valid.to(rows.dtype), batch)
        out = _affine(norm, formula, y)
        if norm.feature_axis == 1 and given.dim() > 2:
            return out.reshape(given.movedim(1, -1).shape).movedim(-1, 1)
        return out.reshape(given.shape)

    def line(self) -> Line:
        """Return it and the layer's affine as one map, for a kind of FIXED and one affine for all heads."""
        norm, formula, known = self.norm, _settled(self.norm), self.statistics.known()
        one = torch.ones(norm.features, dtype=torch.float64)
        scale, shift = one, 0 * one
        if self.kind == BATCHNORM:
            scale = (known["variance"] + formula.eps).rsqrt()
            shift = -known["mean"] * scale
        elif self.kind == FITTED:
            scale, shift = known["slope"], known["intercept"]
        elif self.kind == FROZEN:
            scale = known["scale"] * one
        weight, bias = (_parameter(norm, name, torch.float64) for name in ("weight", "bias"))
        if weight is not None:
            factor = formula.offset + weight.detach().cpu()
            scale, shift = scale * factor, shift * factor
        if bias is not None:
            shift = shift + bias.detach().cpu()
        return Line(scale, shift, self.kind == FROZEN and formula.kind == "layernorm")

    def _normalise(self, rows: Tensor, formula: Formula, valid: Tensor, batch: Moments | None) -> Tensor:
        if self.kind == IDENTITY:
            return rows
        if self.kind == BATCH:
            mean, variance = valid.mean(0), valid.var(0, correction=0)
            if batch is not None:
                mean, variance = (v[0].to(rows.dtype).to(rows.device) for v in (batch.mean, batch.variance()))
            return (rows - mean) * (variance + formula.eps).rsqrt()
        if self.kind == FROZEN:
            centred = Rows.of(rows).centred if formula.kind == "layernorm" else rows
            return centred * self._constants(rows, formula)[1]
        shift, scale = self._constants(rows, formula)
        return (rows - shift) * scale if self.kind == BATCHNORM else torch.addcmul(shift, rows, scale)

    def _constants(self, like: Tensor, formula: Formula) -> tuple[Tensor, Tensor]:
        """Return what is subtracted or added, and what is multiplied by, where the rows are."""
        place = (like.device, like.dtype)
        if place not in self._moved:
            known = self.statistics.known()
            pair = {
                BATCHNORM: lambda: (known["mean"], (known["variance"] + formula.eps).rsqrt()),
                FITTED: lambda: (known["intercept"], known["slope"]),
                FROZEN: lambda: (torch.zeros(()), known["scale"]),
            }[self.kind]()
            shift, scale = (value.to(like.dtype).to(like.device) for value in pair)
            self._moved[place] = (shift, scale)
        return self._moved[place]


def _settled(norm: NormLayer) -> Formula:
    reason = obstacle(norm)
    if reason is not None or norm.formula is None:
        raise UsageError(
            f"{norm.name}: {reason}; expected a LayerNorm or an RMSNorm to replace; "
            "leave it out, see --exclude"
        )
    return norm.formula


def obstacle(norm: NormLayer) -> str | None:
    """Say why a layer whose formula is settled cannot be replaced, None where it can."""
    if norm.formula is None:
        return f"{type(norm.module).__name__} matches no formula of ours"
    if norm.gate is not None:
        return "it has a gate"
    if not norm.formula.is_plain:
        return f"{type(norm.module).__name__} is no plain LayerNorm or RMSNorm"
    return None


def _affine(norm: NormLayer, formula: Formula, y: Tensor) -> Tensor:
    """Apply the layer's own affine to rows y (V, D); where each head has one, rows are a token's heads."""
    weight, bias = (_parameter(norm, name, y.dtype) for name in ("weight", "bias"))
    shape = y.shape
    if weight is not None:
        y = y.reshape(-1, len(weight)) * (formula.offset + weight)
    if bias is not None:
        y = y.reshape(-1, len(bias)) + bias
    return y.reshape(shape)


def _parameter(norm: NormLayer, name: str, dtype: torch.dtype) -> Tensor | None:
    """Return a weight or bias as a flat vector with its gradient; one of another size is not used."""
    value = getattr(norm.module, name, None)
    if not isinstance(value, Tensor):
        return None
    flat = value.reshape(-1).to(dtype)
    if len(flat) == 1:
        return flat.expand(norm.features)
    fits = len(flat) == norm.features or (norm.per_head and len(flat) % norm.features == 0)
    return flat if fits else None
