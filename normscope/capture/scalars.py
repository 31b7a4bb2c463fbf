"""The few numbers of a window that a logger shows: some for each layer, and their medians over layers."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.statistics import metrics
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.running_statistics import RunningStatistics
from normscope.statistics.views import cells


@dataclass(frozen=True)
class WindowMoments:
    """The moments of one layer in a window, and BatchNorm's running statistics before it."""

    moments: Accumulator
    running: RunningStatistics | None

    def ln_variance(self) -> float:
        """Return the mean of the tokens' own variances, as LayerNorm takes them."""
        return float(self.moments.token.variance.moments.known_mean())

    def bn_agreement(self) -> float:
        """Return the cosine between the layer's own output and what BatchNorm would give in this window."""
        return metrics.agreement(self.moments, "feature")

    def input_rms(self) -> float:
        """Return the root mean square of the layer's input, sqrt(mean over tokens and features of x^2)."""
        everything = cells(self.moments, "global").x
        return math.sqrt(float(everything.mean.square() + everything.variance()))

    def largest_input(self) -> float:
        """Return the largest |x| of the layer's input."""
        return float(self.moments.extremes.input.value)

    def bn_gap(self) -> tuple[float, float]:
        """Return how far this window's statistics are from the running ones: of means, and of deviations.

        ||mu - running mean||_2 / ||running sd||_2 and ||sd - running sd||_2 / ||running sd||_2, NaN without
        running statistics. Training Inference Discrepancy (Wang et al., NeurIPS 2022, arXiv 2210.05153).
        """
        if self.running is None:
            return math.nan, math.nan
        by_feature = cells(self.moments, "feature").x.to("cpu")
        return metrics.stored_gap(by_feature, self.running.mean, self.running.variance)


METRICS: Mapping[str, Callable[[WindowMoments], float]] = {
    "ln_variance": WindowMoments.ln_variance,
    "bn_agreement": WindowMoments.bn_agreement,
    "bn_gap_mean": lambda window: window.bn_gap()[0],
    "bn_gap_variance": lambda window: window.bn_gap()[1],
    "input_rms": WindowMoments.input_rms,
    "largest_input": WindowMoments.largest_input,
}


def require_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics to compute, all without `names`; UsageError for a name that is not among them."""
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"is it {near[0]}?" if near else f"one of {', '.join(METRICS)}"
            raise UsageError(f"there is no metric {quoted(name)} of a window; expected another ({hint})")
    return tuple(names) or tuple(METRICS)


def scalars(
    layers: Mapping[str, WindowMoments], prefix: str, names: Sequence[str], *, per_layer: bool
) -> dict[str, float]:
    """Return "prefix/metric/layer" for each layer and "prefix/metric/median", without undefined numbers."""
    flat: dict[str, float] = {}
    for metric in require_metrics(names):
        values = {name: METRICS[metric](layer) for name, layer in layers.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if per_layer:
            flat.update({f"{prefix}/{metric}/{name}": value for name, value in finite.items()})
        if finite:
            flat[f"{prefix}/{metric}/median"] = median(finite.values())
    return flat
