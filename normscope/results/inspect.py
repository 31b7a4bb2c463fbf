"""Result of `inspect`: the report on a model's normalization layers.

Shapes, unknown numbers and variances are written as in `normscope.results.common`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.errors import ReportError
from normscope.escaping import counted, quoted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import Counts, Floats, ModelInfo, Pooled, RunInfo, Summary
from normscope.results.curve import InputOutputCurve
from normscope.results.depth import DepthProfile
from normscope.results.json_codec import NOT_IN_JSON
from normscope.results.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

MOMENTS_SCHEMA = "normscope.moments/1"


@dataclass(frozen=True, eq=False)
class GroupStats(Record):
    """Means and variances of groups too many to list (tokens, samples), each summarised."""

    mean: Summary
    variance: Summary


@dataclass(frozen=True, eq=False)
class FeatureStats(Record):
    """BatchNorm's statistics, one pair per feature over all tokens: mean (D,), variance (D,)."""

    count: int
    mean: Floats
    variance: Floats


@dataclass(frozen=True, eq=False)
class PositionStats(Record):
    """Per position, BN-style beside LN-style; every array is (T,).

    `count` is the number of samples that reach the position. `mean` and `variance` pool samples and
    features there, as BatchNorm does with the position as its channel. `token_mean` and `token_variance`
    average each token's own mean and variance, as LayerNorm takes them. Of these variances,
    `token_variance_std` is the standard deviation, `token_variance_min` and `token_variance_max` are the
    minimum and maximum, and `far` is the share over twice or under half of BN's one variance for the layer
    (`global_`); each is None in reports of earlier versions. If late positions share bins, each array
    element is a bin: `first` is its first position, and `count` the number of tokens in it. `first` is None
    if there are no bins.
    """

    count: Counts
    mean: Floats
    variance: Floats
    token_mean: Floats
    token_variance: Floats
    first: Counts | None = None
    token_variance_std: Floats | None = None
    token_variance_min: Floats | None = None
    token_variance_max: Floats | None = None
    far: Floats | None = None

    @property
    def numbers(self) -> Counts:
        """The position of each array element, or the first position of its bin, (T,)."""
        return np.arange(len(self.count)) if self.first is None else self.first


@dataclass(frozen=True, eq=False)
class Scale(Record):
    """One mean and one variance for everything the layer saw."""

    mean: float
    variance: float


@dataclass(frozen=True, eq=False)
class FeatureOutput(Record):
    """What the layer's own normalization, before its affine, leaves per feature: both (D,)."""

    mean: Floats
    variance: Floats


@dataclass(frozen=True, eq=False)
class AffineFit(Record):
    """R^2 of the best fixed per-feature scale and shift, the most any BN-style layer can do."""

    r2: float


@dataclass(frozen=True, eq=False)
class EffectSize(Record):
    """One-way ANOVA effect sizes: eta squared and its bias-corrected form epsilon squared."""

    eta2: float
    epsilon2: float


@dataclass(frozen=True, eq=False)
class ExplainedByToken(Record):
    """The same effect sizes for the token's id, and the share of the tokens whose ids were kept."""

    eta2: float
    epsilon2: float
    coverage: float


@dataclass(frozen=True, eq=False)
class Explained(Record):
    """The share of the variance of x that position, that sample, and that the token's id account for.

    `token` is None if it was not requested, or the token ids are not known.
    """

    position: EffectSize
    sequence: EffectSize
    token: ExplainedByToken | None = None


@dataclass(frozen=True, eq=False)
class FirstPosition(Record):
    """Root mean square of centred tokens at position 0, at the others, and their ratio."""

    rms: float
    rest_rms: float
    ratio: float


@dataclass(frozen=True, eq=False)
class StoredGap(Record):
    """How far a BatchNorm's stored statistics are from the corpus's, relative to the stored sds."""

    mean: float
    variance: float


@dataclass(frozen=True, eq=False)
class LargeFeatures(Record):
    """Features whose output is 6 or more in size in at least 6 % of the tokens; every array is (F,).

    `share` (F,) is the share of the tokens in which each feature is large, `largest` (F,) its maximum
    |output|.
    """

    features: Counts
    share: Floats
    largest: Floats


@dataclass(frozen=True, eq=False)
class MassiveActivations(Record):
    """Elements of the input over 100 in size, and over 1000 medians of their sample.

    `count` is their number and `largest` the maximum of their |x|. `features` and `positions` are those
    with the largest numbers of them, in descending order, at most 16 of each.
    """

    count: int
    largest: float
    features: Counts
    positions: Counts


@dataclass(frozen=True, eq=False)
class AffineOutliers(Record):
    """Features whose weight, or bias, is over 3 standard deviations from the mean; None without one."""

    weight: Counts | None
    bias: Counts | None


@dataclass(frozen=True, eq=False)
class Outliers(Record):
    """What stands out of a layer, each by the rule of its source.

    `llm_int8` is None if the output is not known, `affine_outliers` if there is no affine of several
    elements. `sd_ratio` is the maximum over the median of the features' standard deviations.
    """

    llm_int8: LargeFeatures | None
    massive: MassiveActivations
    affine_outliers: AffineOutliers | None
    sd_ratio: float


@dataclass(frozen=True, eq=False)
class Extreme(Record):
    """The largest |value| and its place: feature, position in the text, token id; None if unknown."""

    value: float
    feature: int | None
    position: int | None
    token: int | None


@dataclass(frozen=True, eq=False)
class Extremes(Record):
    """The largest values of a layer's input and of its output, None if the output is unknown.

    `feature` (D,) is the maximum of |x_d| of the input. `headroom` is 65504, the largest finite float16,
    over the larger of both values, and `headroom_bits` its logarithm to base 2: the powers of two that are
    left before an overflow.
    """

    input: Extreme
    output: Extreme | None
    feature: Floats
    headroom: float
    headroom_bits: float


@dataclass(frozen=True, eq=False)
class OutlierFeature(Record):
    """One feature of the layers with `width` features that is an outlier in several of them.

    `layers` are the names of these layers, `share` their share of all measured layers of that width.
    """

    feature: int
    width: int
    layers: tuple[str, ...]
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class LayerReport(Record, Shown):
    """All numbers of one normalization layer. A part that could not be measured is None.

    `call` is the number of this call within a forward pass, from 1; None if all calls are pooled.
    `calls_per_forward` is the maximum number of calls in one forward pass, `calls` the number of calls in
    these statistics. `mean_share` in [0, 1] is the average over tokens of mean^2 / (mean^2 + variance), and
    `mean_share_energy` the same share of the sums of squares of all tokens (Gupta et al. 2024, arXiv
    2409.12951); both are NaN if all tokens are zeros, and in older reports. `curve` is None unless requested.
    """

    name: str
    index: int
    module: str
    kind: str
    features: int
    eps: float
    affine: str
    calls: int
    layout: str | None
    count: int
    nonfinite: int
    own_error: float
    token: GroupStats | None
    feature: FeatureStats | None
    position: PositionStats | None
    sequence: GroupStats | None
    instance: GroupStats | None
    global_: Scale | None
    own_output: FeatureOutput | None
    agreement: Mapping[str, float] | None
    affine_fit: AffineFit | None
    explained: Explained | None
    first_position: FirstPosition | None
    stored_gap: StoredGap | None = None
    call: int | None = None
    calls_per_forward: int = 1
    outliers: Outliers | None = None
    mean_share: float = math.nan
    mean_share_energy: float = math.nan
    extremes: Extremes | None = None
    curve: InputOutputCurve | None = None

    def __repr__(self) -> str:
        counts = counted(self.features, "feature"), counted(self.count, "token")
        return f"<LayerReport of {self.name}: {self.kind}, {', '.join(counts)}>"

    @property
    def module_name(self) -> str:
        """The name of the layer's module in the model, without the number of the call."""
        return self.name.removesuffix(f"#{self.call}")

    def to_frame(self, view: str) -> "pd.DataFrame":
        """Return one view as a table: a row per "position", or per "feature" (also of "own_output").

        The columns are its statistics. Raises UsageError without pandas, and for another view.
        """
        # Imported by name, since the tables know the kinds of results.
        frame: pd.DataFrame = import_module("normscope.results.frames").view_frame(self, view)
        return frame


@dataclass(frozen=True, eq=False, repr=False)
class Report(Result, Shown, Tabular):
    """One run over one model; `layers` maps each layer's name to its numbers, in model order.

    `outlier_features` are those that recur across layers. `pooled` has the tokens of a run over one to five
    texts, else it is None. `depth` has the residual stream along each stack of blocks; it is None if the
    model was not at hand, as in `watch`. `moments` is a `normscope.statistics.layer_state.RunMoments`,
    which `normscope.merge` needs; it is None unless requested, and is part neither of the JSON nor of a
    comparison.
    """

    SCHEMA = "normscope.report/1"
    EXPECTED = "a normscope report"

    normscope: str
    model: ModelInfo
    run: RunInfo
    layers: Mapping[str, LayerReport]
    warnings: tuple[str, ...]
    outlier_features: tuple[OutlierFeature, ...] = ()
    moments: Any = field(default=None, metadata=NOT_IN_JSON)
    pooled: Pooled | None = None
    provenance: Provenance | None = None
    depth: tuple[DepthProfile, ...] | None = None

    def __repr__(self) -> str:
        run = self.run
        counts = (len(self.layers), "layer"), (run.texts, "text"), (run.tokens, "token")
        return f"<Report of {self.model.id}: {', '.join(counted(*count) for count in counts)}>"

    @classmethod
    def from_dict(cls, data: Any) -> "Report":
        """Build a report from what `to_dict` returns; ReportError says what does not fit."""
        report = super().from_dict(data)
        for layer in report.layers.values():
            _check_lengths(layer)
        return report


def _check_lengths(layer: LayerReport) -> None:
    """Raise ReportError if arrays over one axis differ in length, or do not have one number per feature."""
    if layer.features < 0:
        raise ReportError(f"layer {quoted(layer.name)} has {layer.features} features; expected 0 or more")
    large = layer.outliers.llm_int8 if layer.outliers else None
    for part in (layer.feature, layer.position, layer.own_output, large):
        arrays = [value for value in vars(part).values() if isinstance(value, np.ndarray)] if part else []
        lengths = {len(array) for array in arrays}
        if part is layer.feature or part is layer.own_output:
            lengths.add(layer.features)
        if len(lengths) > 1:
            raise ReportError(
                f"the arrays of layer {quoted(layer.name)} differ in length; expected one length"
            )
