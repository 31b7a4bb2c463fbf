"""Replacements for LayerNorm and RMSNorm that use BatchNorm-style statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import (
    APART,
    BATCH,
    BATCHNORM,
    BY_TEXT,
    CENTRE_FEATURE,
    CENTRE_SEQUENCE,
    FITTED,
    FROZEN,
    HALVES,
    IDENTITY,
    POOLED,
    RMSNORM,
    SCALE_FEATURE,
    SQUASHING,
    require_first,
)
from normscope.analyses.swap.squashing import FUNCTIONS
from normscope.analyses.swap.text_rows import TextRows
from normscope.errors import UsageError
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import Formula
from normscope.statistics.layout import to_rows
from normscope.statistics.moments import Moments, Rows

_ADVICE = {
    "first_scale": "pass what normscope.calibrate returns with special tokens included",
    "rest_scale": "pass what normscope.calibrate returns for longer texts, or leave the layer out",
}


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
    - "frozen": the layer's own centring and one scale for all tokens or, with `first` "apart", one for
      position 0 of each text and one for the others;
    - "identity": y = x;
    - "rmsnorm": y = x / sqrt(mean x^2 + eps): the mean is not subtracted, so an RMSNorm stays as it is;
    - "scale-feature" and "centre-feature": y = (x - centre) / sqrt(power + eps), with the corpus's variance
      per feature as the power, or its mean per feature as the centre; the other half is the token's own;
    - "scale-sequence" and "centre-sequence": the same with the variance or the mean of the text, over its
      tokens and features;
    - "dyt" and "derf": y = gamma tanh(alpha x) + beta and y = gamma erf(alpha x + shift) + beta, without any
      statistics of the token: Zhu et al. 2025, arXiv 2503.10622, and arXiv 2512.10938.

    An RMSNorm's own centre is 0 and its own power is the mean square, also that of the text.
    The layer's own affine follows. The output is differentiable in x and in the affine.
    """

    def __init__(
        self, norm: NormLayer, kind: str, statistics: Statistics | None, first: str = POOLED
    ) -> None:
        require_first(first, kind)
        self.norm, self.kind, self.first = norm, kind, first
        self.statistics = statistics or Statistics()
        self._cached: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}
        lacking = self.statistics.lacks(kind, first)
        if lacking:
            raise UsageError(
                f"{norm.name}: no {' and no '.join(lacking)} in the statistics; expected what {kind} needs; "
                f"{_ADVICE.get(lacking[0], 'pass what normscope.calibrate returns')}"
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
        or from `batch` (1, D) if x is only a part of the batch. The kinds of BY_TEXT, and "frozen" with
        `first` "apart", need the `texts` of the rows.
        """
        norm, formula = self.norm, _settled_formula(self.norm)
        precise = x if x.dtype == torch.float64 else x.float()
        rows = to_rows(precise, norm.feature_axis, norm.features)
        if texts is None and self.by_text:
            raise UsageError(f"{norm.name}: {self.kind} needs the rows of each text; pass texts")
        if self.kind in HALVES:
            y = self._replace_half(_differentiable(rows), formula, texts)
        elif self.kind == FROZEN:
            y = self._freeze(rows, formula, texts)
        else:
            y = self._normalise(rows, formula, rows if valid is None else valid.to(rows.dtype), batch)
        out = _affine(norm, formula, y)
        if norm.feature_axis == 1 and x.dim() > 2:
            return out.reshape(x.movedim(1, -1).shape).movedim(-1, 1)
        return out.reshape(x.shape)

    @property
    def by_text(self) -> bool:
        """Whether it needs the texts of the rows."""
        return self.kind in BY_TEXT or self.first == APART

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
        if self.kind == RMSNORM:
            return rows * (rows.square().mean(1, keepdim=True) + formula.eps).rsqrt()
        if self.kind == BATCH:
            mean, variance = valid.mean(0), valid.var(0, correction=0)
            if batch is not None:
                mean, variance = (v[0].to(rows.dtype).to(rows.device) for v in (batch.mean, batch.variance()))
            return (rows - mean) * (variance + formula.eps).rsqrt()
        if self.kind in SQUASHING:
            beta, gamma, alpha, shift = self._cached_constants(rows, formula)
            return torch.addcmul(beta, FUNCTIONS[self.kind](rows * alpha + shift), gamma)
        shift, scale = self._cached_constants(rows, formula)
        return (rows - shift) * scale if self.kind == BATCHNORM else torch.addcmul(shift, rows, scale)

    def _freeze(self, rows: Tensor, formula: Formula, texts: TextRows | None) -> Tensor:
        first, scale = self._cached_constants(rows, formula)
        if texts is not None and self.first == APART:
            scale = torch.where(texts.first, first, scale)
        return (Rows.of(rows).centred if formula.kind == "layernorm" else rows) * scale

    def _replace_half(self, rows: Rows, formula: Formula, texts: TextRows | None) -> Tensor:
        """Return (x - centre) / sqrt(power + eps), with one of the two from elsewhere than the token."""
        own_scale = formula.row_scale(rows)
        centred = rows.centred if formula.kind == "layernorm" else rows.x
        if texts is not None and self.kind in BY_TEXT:
            mean = texts.means(rows.mean)
            if self.kind == CENTRE_SEQUENCE:
                return (rows.x - mean) * own_scale
            centre = mean if formula.kind == "layernorm" else 0
            power = texts.means(rows.variance + (rows.mean - centre).square())
            return centred * (power + formula.eps).rsqrt()
        shift, scale = self._cached_constants(rows.x, formula)
        return centred * scale if self.kind == SCALE_FEATURE else (rows.x - shift) * own_scale

    def _cached_constants(self, like: Tensor, formula: Formula) -> tuple[Tensor, ...]:
        """Return the constants in the dtype and on the device of some rows."""
        key = (like.device, like.dtype)
        if key not in self._cached:
            constants = self._constants(formula)
            self._cached[key] = tuple(value.to(like.dtype).to(like.device) for value in constants)
        return self._cached[key]

    def _constants(self, formula: Formula) -> tuple[Tensor, ...]:
        """Return shift and scale, (D,) or (); those of SQUASHING are alpha and the inner shift, too.

        "batchnorm" and "centre-feature" subtract the shift first, others add it last. With `first` "apart",
        the two are the scale of position 0 and that of the other positions.
        """
        known = self.statistics.known()
        zero = torch.zeros((), dtype=torch.float64)
        if self.kind in SQUASHING:
            own = {
                name: known.get(f"{self.kind}_{name}", zero) for name in ("beta", "gamma", "alpha", "shift")
            }
            return tuple(own.values())
        if self.first == APART:
            return known["first_scale"], known["rest_scale"]
        if self.kind == FITTED:
            return known["intercept"], known["slope"]
        if self.kind == FROZEN:
            return zero, known["scale"]
        shift = known["mean"] if self.kind in (BATCHNORM, CENTRE_FEATURE) else zero
        by_feature = self.kind in (BATCHNORM, SCALE_FEATURE)
        return shift, (known["variance"] + formula.eps).rsqrt() if by_feature else zero + 1


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
