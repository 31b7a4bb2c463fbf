"""Statistics of one layer over a corpus, from which its replacements are computed."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from normscope.analyses.swap.options import (
    APART,
    BATCHNORM,
    CENTRE_FEATURE,
    DERF,
    DYT,
    FITTED,
    FROZEN,
    POOLED,
    SCALE_FEATURE,
)
from normscope.capture.layer_capture import LayerCapture
from normscope.statistics.moments import Moments
from normscope.statistics.views import cells

# The statistics that kinds of replacement need; the other kinds need none.
_NEEDS: dict[str, tuple[str, ...]] = {
    BATCHNORM: ("mean", "variance"),
    FITTED: ("slope", "intercept"),
    FROZEN: ("scale",),
    SCALE_FEATURE: ("variance",),
    CENTRE_FEATURE: ("mean",),
    DYT: ("dyt_alpha", "dyt_gamma", "dyt_beta"),
    DERF: ("derf_alpha", "derf_shift", "derf_gamma", "derf_beta"),
}


@dataclass(frozen=True)
class Statistics:
    """Statistics of one layer with D features over a corpus: float64 tensors on the CPU, None if unknown.

    `mean` and `variance` (D,) are those of the input x. `slope` and `intercept` (D,) are those of the
    least-squares line y ~ slope x + intercept per feature, where y is the layer's own output before its
    affine. `scale` () is the mean over tokens of 1 / sqrt(power + eps), the layer's factor for a centred
    token; `first_scale` () is that of the tokens at position 0 of their text, `rest_scale` () of the others.
    `dyt_...` and `derf_...` are those of y ~ gamma f(alpha x + shift) + beta, also by least squares: `alpha`
    and `shift` () of the layer, `gamma` and `beta` (D,), with tanh and no shift, and with erf.
    """

    mean: Tensor | None = None
    variance: Tensor | None = None
    slope: Tensor | None = None
    intercept: Tensor | None = None
    scale: Tensor | None = None
    first_scale: Tensor | None = None
    rest_scale: Tensor | None = None
    dyt_alpha: Tensor | None = None
    dyt_gamma: Tensor | None = None
    dyt_beta: Tensor | None = None
    derf_alpha: Tensor | None = None
    derf_shift: Tensor | None = None
    derf_gamma: Tensor | None = None
    derf_beta: Tensor | None = None

    @classmethod
    def of(cls, capture: LayerCapture) -> "Statistics | None":
        """Return the statistics of the tokens that a layer saw, None if it saw none."""
        if capture.state.moments is None or not capture.state.moments.count:
            return None
        by_feature = cells(capture.state.moments, "feature")
        x, scales = by_feature.x, capture.state.scales or Moments.empty(2, 1)
        slope = by_feature.co / x.m2.where(x.m2 > 0, torch.inf)  # 0 where x is constant.
        intercept = by_feature.mean_y - slope * x.mean
        mean, variance, a, b = (table[0].cpu() for table in (x.mean, x.variance(), slope, intercept))
        first, rest = (scales.take(torch.tensor([place])) for place in (0, 1))
        factors = {"scale": scales.pool(0), "first_scale": first, "rest_scale": rest}
        known = {name: part.mean[0, 0] for name, part in factors.items() if float(part.count)}
        return cls(mean, variance, a, b, **known)

    def known(self) -> dict[str, Tensor]:
        """Return the statistics that are known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def lacks(self, kind: str, first: str = POOLED) -> list[str]:
        """Name the unknown statistics that a kind of replacement needs."""
        needs = ("first_scale", "rest_scale") if first == APART else _NEEDS.get(kind, ())
        return [name for name in needs if getattr(self, name) is None]
