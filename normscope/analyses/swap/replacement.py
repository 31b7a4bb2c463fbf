"""Replacements for LayerNorm and RMSNorm that use BatchNorm-style statistics."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from normscope.analyses.swap.options import (
    BATCH,
    BATCHNORM,
    BY_TEXT,
    CENTRE_FEATURE,
    CENTRE_SEQUENCE,
    FITTED,
    FROZEN,
    HALVES,
    IDENTITY,
    SCALE_FEATURE,
    SCALE_SEQUENCE,
)
from normscope.analyses.swap.text_rows import TextRows
from normscope.capture.layer_capture import LayerCapture
from normscope.errors import UsageError
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import Formula
from normscope.statistics.layout import to_rows
from normscope.statistics.moments import Moments, Rows
from normscope.statistics.views import cells

# The statistics that each kind of replacement needs.
_NEEDS: dict[str, tuple[str, ...]] = {
    BATCHNORM: ("mean", "variance"),
    FITTED: ("slope", "intercept"),
    BATCH: (),
    FROZEN: ("scale",),
    IDENTITY: (),
    SCALE_FEATURE: ("variance",),
    CENTRE_FEATURE: ("mean",),
    SCALE_SEQUENCE: (),
    CENTRE_SEQUENCE: (),
}


@dataclass(frozen=True)
class Statistics:
    """Statistics of one layer with D features over a corpus: float64 tensors on the CPU, None if unknown.

    `mean` and `variance` (D,) are those of the input x. `slope` and `intercept` (D,) are those of the
    least-squares line y ~ slope x + intercept per feature, where y is the layer's own output before its
    affine. `scale` () is the mean over tokens of 1 / sqrt(power + eps), the layer's factor for a centred
    token.
    """

    mean: Tensor | None = None
    variance: Tensor | None = None
    slope: Tensor | None = None
    intercept: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def of(cls, capture: LayerCapture) -> "Statistics | None":
        """Return the statistics of the tokens that a layer saw, None if it saw none."""
        if capture.state.moments is None or not capture.state.moments.count:
            return None
        by_feature = cells(capture.state.moments, "feature")
        x, scales = by_feature.x, capture.state.scales
        slope = by_feature.co / x.m2.where(x.m2 > 0, torch.inf)  # 0 where x is constant.
        intercept = by_feature.mean_y - slope * x.mean
        mean, variance, a, b = (table[0].cpu() for table in (x.mean, x.variance(), slope, intercept))
        scale = scales.mean[0, 0].cpu() if scales is not None and float(scales.count) else None
        return cls(mean, variance, a, b, scale)

    def known(self) -> dict[str, Tensor]:
        """Return the statistics that are known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def lacks(self, kind: str) -> list[str]:
        """Name the unknown statistics that a kind of replacement needs."""
        return [name for name in _NEEDS[kind] if getattr(self, name) is None]


@dataclass(frozen=True)
class Line:
    """A replacement as one linear map for all tokens: y = scale * x + shift, (D,) float64 on the CPU.

    If `centred`, x first loses its mean over features.
    """

    scale: Tensor
    shift: Tensor
    centred: bool


class Replacement:
    """Computes one layer's output with other statistics, once the layer's formula is settled.

    The `kind` is one of:

    - "batchnorm": y = (x - mean) / sqrt(variance + eps), with the corpus's statistics per feature;
    - "batchnorm-batch": the same with the statistics of the current rows, as nn.BatchNorm1d in training;
    - "batchnorm-fitted": y = slope x + intercept, the least-squares line per feature;
    - "frozen": the layer's own centring and one scale for all tokens;
    - "identity": y = x;
    - "scale-feature" and "centre-feature": y = (x - centre) / sqrt(power + eps), with the corpus's variance
      per feature as the power, or its mean per feature as the centre; the other half is the token's own;
    - "scale-sequence" and "centre-sequence": the same with the variance or the mean of the text, over its
      tokens and features.

    An RMSNorm's own centre is 0 and its own power is the mean square, also that of the text.
    The layer's own affine follows. The output is differentiable in x and in the affine.
    """

    def __init__(self, norm: NormLayer, kind: str, statistics: Statistics | None) -> None:
        self.norm, self.kind = norm, kind
        self.statistics = statistics or Statistics()
        self._cached: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        lacking = self.statistics.lacks(kind)
        if lacking:
            raise UsageError(
                f"{norm.name}: no {' and no '.join(lacking)} in the statistics; expected what {kind} needs; "
                "pass what normscope.calibrate returns"
            )

    def __call__(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        batch: Moments | None = None,
        texts: TextRows | None = None,
    ) -> Tensor:
        """Return the layer's new output for its input x, in the shape of x and at least float32.

        "batchnorm-batch" takes its statistics over the rows `valid` (V, D) of x, by default over all rows,
        or from `batch` (1, D) if x is only a part of the batch. The kinds of BY_TEXT need the `texts` of the
        rows.
        """
        norm, formula = self.norm, _settled_formula(self.norm)
        precise = x if x.dtype == torch.float64 else x.float()
        rows = to_rows(precise, norm.feature_axis, norm.features)
        if self.kind in HALVES:
            y = self._replace_half(_differentiable(rows), formula, texts)
        else:
            y = self._normalise(rows, formula, rows if valid is None else valid.to(rows.dtype), batch)
        out = _affine(norm, formula, y)
        if norm.feature_axis == 1 and x.dim() > 2:
            return out.reshape(x.movedim(1, -1).shape).movedim(-1, 1)
        return out.reshape(x.shape)

    def line(self) -> Line:
        """Return the replacement and the layer's affine as one map.

        The kind must be one of FIXED, and all heads must share one affine.
        """
        norm, formula = self.norm, _settled_formula(self.norm)
        shift, scale = (value.expand(norm.features) for value in self._constants(formula))
        if self.kind == BATCHNORM:
            shift = -shift * scale
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
        shift, scale = self._cached_constants(rows, formula)
        if self.kind == FROZEN:
            centred = Rows.of(rows).centred if formula.kind == "layernorm" else rows
            return centred * scale
        return (rows - shift) * scale if self.kind == BATCHNORM else torch.addcmul(shift, rows, scale)

    def _replace_half(self, rows: Rows, formula: Formula, texts: TextRows | None) -> Tensor:
        """Return (x - centre) / sqrt(power + eps), with one of the two from elsewhere than the token."""
        own_scale = formula.row_scale(rows)
        centred = rows.centred if formula.kind == "layernorm" else rows.x
        if self.kind in BY_TEXT:
            if texts is None:
                raise UsageError(f"{self.norm.name}: {self.kind} needs the rows of each text; pass texts")
            mean = texts.means(rows.mean)
            if self.kind == CENTRE_SEQUENCE:
                return (rows.x - mean) * own_scale
            centre = mean if formula.kind == "layernorm" else 0
            power = texts.means(rows.variance + (rows.mean - centre).square())
            return centred * (power + formula.eps).rsqrt()
        shift, scale = self._cached_constants(rows.x, formula)
        return centred * scale if self.kind == SCALE_FEATURE else (rows.x - shift) * own_scale

    def _cached_constants(self, like: Tensor, formula: Formula) -> tuple[Tensor, Tensor]:
        """Return the constants in the dtype and on the device of some rows."""
        key = (like.device, like.dtype)
        if key not in self._cached:
            shift, scale = (value.to(like.dtype).to(like.device) for value in self._constants(formula))
            self._cached[key] = (shift, scale)
        return self._cached[key]

    def _constants(self, formula: Formula) -> tuple[Tensor, Tensor]:
        """Return shift and scale, (D,) or ().

        "batchnorm" and "centre-feature" subtract the shift first, others add it last.
        """
        known = self.statistics.known()
        zero = torch.zeros((), dtype=torch.float64)
        if self.kind == CENTRE_FEATURE:
            return known["mean"], zero + 1
        if self.kind == SCALE_FEATURE:
            return zero, (known["variance"] + formula.eps).rsqrt()
        if self.kind == BATCHNORM:
            return known["mean"], (known["variance"] + formula.eps).rsqrt()
        if self.kind == FITTED:
            return known["intercept"], known["slope"]
        return zero, known["scale"] if self.kind == FROZEN else zero + 1


def _differentiable(x: Tensor) -> Rows:
    """Return rows whose variances can be differentiated: `Rows.of` computes them in place."""
    mean = x.mean(1, keepdim=True)
    centred = x - mean
    return Rows(x, mean, centred, centred.square().mean(1, keepdim=True))


def _settled_formula(norm: NormLayer) -> Formula:
    reason = obstacle(norm)
    if reason is not None or norm.formula is None:
        raise UsageError(
            f"{norm.name}: {reason}; expected a LayerNorm or an RMSNorm to replace; "
            "leave it out, see --exclude"
        )
    return norm.formula


def obstacle(norm: NormLayer) -> str | None:
    """Say why a layer whose formula is settled cannot be replaced, None if it can."""
    if norm.formula is None:
        return f"{type(norm.module).__name__} matches no formula of ours"
    if norm.gate is not None:
        return "it has a gate"
    if not norm.formula.is_plain:
        return f"{type(norm.module).__name__} is no plain LayerNorm or RMSNorm"
    return None


def _affine(norm: NormLayer, formula: Formula, y: Tensor) -> Tensor:
    """Apply the layer's own affine to rows y (V, D).

    If the affine has a part for each head, the rows of one token are its heads.
    """
    weight, bias = (_parameter(norm, name, y.dtype) for name in ("weight", "bias"))
    shape = y.shape
    if weight is not None:
        y = y.reshape(-1, len(weight)) * (formula.offset + weight)
    if bias is not None:
        y = y.reshape(-1, len(bias)) + bias
    return y.reshape(shape)


def _parameter(norm: NormLayer, name: str, dtype: torch.dtype) -> Tensor | None:
    """Return a weight or bias as a flat vector with its gradient, None for one of another size."""
    value = getattr(norm.module, name, None)
    if not isinstance(value, Tensor):
        return None
    flat = value.reshape(-1).to(dtype)
    if len(flat) == 1:
        return flat.expand(norm.features)
    fits = len(flat) == norm.features or (norm.per_head and len(flat) % norm.features == 0)
    return flat if fits else None
