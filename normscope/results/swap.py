"""Result of `swap`: the effects of replaced normalization layers.

Unknown is NaN here and null in JSON.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Estimate(Record):
    """A mean over the held-out texts' tokens, and its 95 % interval by the bootstrap over texts."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Effect(Record):
    """How a model with replaced layers differs from the untouched one on held-out texts.

    The last four are None, or NaN, without a language-modelling head.
    """

    hidden_cosine: Estimate
    relative_l2: Estimate
    sentence_cosine: Estimate
    similarity_correlation: float
    loss: Estimate | None
    perplexity: float
    kl: Estimate | None
    top1_agreement: Estimate | None

    @property
    def damage(self) -> float:
        """The number that orders effects: KL, or 1 - hidden cosine without a head; infinite if not finite."""
        damage = 1 - self.hidden_cosine.mean if self.kl is None else self.kl.mean
        return damage if math.isfinite(damage) else math.inf


@dataclass(frozen=True, eq=False)
class Baseline(Record):
    """The untouched model: its language-modelling `head`, "causal", "masked", "seq2seq" or None.

    `targets` is the number of tokens of the held-out texts that the model must predict.
    """

    head: str | None
    targets: int
    loss: Estimate | None
    perplexity: float


@dataclass(frozen=True, eq=False)
class DytFit(Record):
    """The fit y_d ~ gamma_d tanh(alpha x_d) + beta_d to a layer's output before its affine.

    `alpha` is in 1 / unit of x. `r2` and `affine_r2` are the shares of y over all features that the fit and
    the best line a_d x_d + b_d explain. `saturated` is the share of elements with |alpha x| above 2.
    Zhu et al. 2025 (CVPR), arXiv 2503.10622.
    """

    alpha: float
    r2: float
    affine_r2: float
    saturated: float


@dataclass(frozen=True, eq=False)
class DerfFit(DytFit):
    """The same of gamma_d erf(alpha x_d + shift) + beta_d, saturated where |alpha x + shift| is above 2.

    arXiv 2512.10938.
    """

    shift: float


@dataclass(frozen=True, eq=False, repr=False)
class LayerSwap(Record):
    """One normalization layer, and the effect of replacing it alone.

    `dyt_fit` and `derf_fit` are those of the kinds "dyt" and "derf", None for others.
    """

    name: str
    index: int
    kind: str
    features: int
    effect: Effect
    dyt_fit: DytFit | None = None
    derf_fit: DerfFit | None = None

    @property
    def fit(self) -> DytFit | None:
        """The fit of its replacement, None for kinds without one."""
        return self.dyt_fit or self.derf_fit

    def __repr__(self) -> str:
        return f"<LayerSwap of {self.name}: {self.kind}, damage {self.effect.damage:.3g}>"


@dataclass(frozen=True, eq=False)
class Together(Record):
    """The effect of replacing all of the layers."""

    effect: Effect


@dataclass(frozen=True, eq=False)
class Step(Record):
    """The effect of replacing `replaced` layers: one more, `name`, than in the step before."""

    name: str
    replaced: int
    effect: Effect


@dataclass(frozen=True, eq=False)
class FoldedLayer(Record):
    """What became of a replaced layer: folded `into` the Linears of these names, or the `reason` why not.

    The differences are between the outputs of the model with only this layer replaced, and those after it
    is folded; NaN if that was not tried.
    """

    name: str
    into: tuple[str, ...]
    reason: str | None
    largest_difference: float
    relative_difference: float


@dataclass(frozen=True, eq=False)
class FoldInfo(Record):
    """The layers that the Linears after them do the work of, and the proof that the outputs are equal.

    Outputs count as equal up to `tolerance`, a relative difference. The differences and the `effect` are
    those of all folded layers together; `effect` is None if no layer was folded.
    """

    tolerance: float
    largest_difference: float
    relative_difference: float
    effect: Effect | None
    layers: tuple[FoldedLayer, ...]

    @property
    def folded(self) -> list[FoldedLayer]:
        """The layers that were folded."""
        return [layer for layer in self.layers if layer.reason is None]


@dataclass(frozen=True, eq=False)
class CalibrationInfo(Record):
    """What the statistics were taken from, none of it held out, and whether they were taken again."""

    texts: int
    tokens: int
    recalibrated: bool


@dataclass(frozen=True, eq=False, repr=False)
class SwapReport(Result, Shown, Tabular):
    """What breaks when a model's normalization layers are replaced, one at a time and together.

    `run` describes the held-out texts, and `kind` the replacement of the layers. `cumulative` and `fold`
    are None unless requested. `first` is "apart" if "frozen" has a scale of its own for position 0 of each
    text, "pooled" if not, and None for the other kinds.
    """

    SCHEMA = "normscope.swap/1"
    EXPECTED = "a report on swaps"

    normscope: str
    model: ModelInfo
    run: RunInfo
    kind: str
    seed: int
    calibration: CalibrationInfo
    baseline: Baseline
    layers: Mapping[str, LayerSwap]
    all_: Together
    cumulative: tuple[Step, ...] | None
    warnings: tuple[str, ...]
    fold: FoldInfo | None = None
    provenance: Provenance | None = None
    first: str | None = None

    def __repr__(self) -> str:
        return (
            f"<SwapReport of {self.model.id}: {counted(len(self.layers), 'layer')} replaced by {self.kind}>"
        )

    def by_damage(self) -> list[LayerSwap]:
        """Return the layers, sorted by damage, the largest first."""
        return sorted(self.layers.values(), key=lambda layer: (-layer.effect.damage, layer.index))
