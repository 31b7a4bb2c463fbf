"""Compares two reports layer by layer, and checks bounds on how far the statistics moved."""

import difflib
import math
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from normscope._version import __version__
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted
from normscope.results.compare import Compared, Comparison, Drift, LayerDrift
from normscope.results.depth import DepthPoint
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import provenance_now
from normscope.results.reading import read_report
from normscope.results.track import Track

# The metrics that a bound can test: one number per layer, by its path in the JSON.
METRICS: dict[str, Callable[[LayerDrift], float]] = {
    path: operator.attrgetter(path)
    for path in (
        "bn_drift.mean", "bn_drift.variance", "ln_drift.mean", "ln_drift.variance", "agreement_change",
        "position_change", "mean_share_change", "mean_share_energy_change", "largest_input_change",
        "largest_output_change", "headroom_change", "residual_rms_change", "kurtosis_change",
    )
}  # fmt: skip
# Fields of the run that must be equal for the numbers to be comparable.
_SAME = ("special_tokens", "max_length", "selection")


def compare(a: Report | str | os.PathLike[str], b: Report | str | os.PathLike[str]) -> Comparison:
    """Return how far report `b` is from report `a`, layer by layer; each may be the path of a file.

    Layers are matched by name; the remaining layers are matched by their order. For each layer:

    - `bn_drift.mean` = ||mu_b - mu_a||_2 / ||sd_a||_2 and `bn_drift.variance` = ||sd_b - sd_a||_2 /
      ||sd_a||_2 over features, of the statistics that BatchNorm would keep: Training Inference
      Discrepancy in its norm-ratio form (Wang et al., NeurIPS 2022, arXiv 2210.05153);
    - `ln_drift.mean` = |m_b - m_a| / sqrt(v_a) and `ln_drift.variance` = |v_b - v_a| / v_a, where m and v
      are the averages of the tokens' own means and variances;
    - `agreement_change` and `position_change`: the agreement with BN, and the share of variance that
      position explains (epsilon squared), in b minus in a;
    - `mean_share_change` and `mean_share_energy_change`: the share of a token's square that its mean carries,
      averaged over tokens and of all squares, in b minus in a;
    - `largest_input_change`, `largest_output_change` and `headroom_change`: log2 of the largest |input| and
      |output|, and of float16's headroom, in b minus in a;
    - `residual_rms_change` and `kurtosis_change`: log2 of the rms of the residual stream, and of the kurtosis
      of its features, in b minus in a, at norms that read the stream.

    A number is NaN if either report lacks it. Raises ReportError for a file that is not a report.
    """
    a, b = (report if isinstance(report, Report) else read_report(report) for report in (a, b))
    pairs = list(_pairs(list(a.layers), list(b.layers)))
    streams = [_stream(report) for report in (a, b)]
    drifts = [
        replace(
            layer_drift(a.layers[name], b.layers[other]),
            residual_rms_change=_log2_change(streams[0].get(name), streams[1].get(other), "residual.rms"),
            kurtosis_change=_log2_change(streams[0].get(name), streams[1].get(other), "kurtosis"),
        )
        for name, other in pairs
    ]
    matched_a, matched_b = ({pair[side] for pair in pairs} for side in (0, 1))
    return Comparison(
        __version__,
        (Compared(a.model, a.run), Compared(b.model, b.run)),
        {layer.name: layer for layer in sorted(drifts, key=bn_distance, reverse=True)},
        tuple(name for name in a.layers if name not in matched_a),
        tuple(name for name in b.layers if name not in matched_b),
        tuple(_warnings(a, b, pairs)),
        provenance_now(),
    )


def bn_distance(layer: LayerDrift) -> float:
    """Return how far a layer moved: the larger of its two BN drifts, -1 if neither is known."""
    drifts = (layer.bn_drift.mean, layer.bn_drift.variance)
    return max((value for value in drifts if value >= 0), default=-1.0)


def _pairs(a: list[str], b: list[str]) -> Iterator[tuple[str, str]]:
    """Match the names that both lists have, then match the remaining names by their order."""
    names = set(a) & set(b)
    yield from ((name, name) for name in a if name in names)
    yield from zip((n for n in a if n not in names), (n for n in b if n not in names), strict=False)


def layer_drift(a: LayerReport, b: LayerReport) -> LayerDrift:
    """Return how far a layer in one report is from its counterpart in another; see `compare`."""
    before, after = (x.agreement.get("feature", math.nan) if x.agreement else math.nan for x in (a, b))
    explained = [x.explained.position.epsilon2 if x.explained else math.nan for x in (a, b)]
    return LayerDrift(
        name=a.name,
        other=b.name,
        index=a.index,
        kind=a.kind,
        bn_drift=_bn_drift(a, b),
        ln_drift=_ln_drift(a, b),
        agreement_change=after - before,
        position_change=explained[1] - explained[0],
        mean_share_change=b.mean_share - a.mean_share,
        mean_share_energy_change=b.mean_share_energy - a.mean_share_energy,
        largest_input_change=_log2_change(a, b, "extremes.input.value"),
        largest_output_change=_log2_change(a, b, "extremes.output.value"),
        headroom_change=_log2_change(a, b, "extremes.headroom"),
    )


def _stream(report: Report) -> dict[str, DepthPoint]:
    """Return the points of the residual stream by the names of their layers."""
    return {point.name: point for profile in report.depth or () for point in profile.points}


def _log2_change(a: object, b: object, path: str) -> float:
    """Return log2 of the number at a path of `b`, minus that of `a`; NaN unless both are positive."""
    try:
        old, new = (operator.attrgetter(path)(part) for part in (a, b))
    except AttributeError:  # A part is None: a report does not have it.
        return math.nan
    return math.log2(new) - math.log2(old) if 0 < old < math.inf and 0 < new < math.inf else math.nan


def _bn_drift(a: LayerReport, b: LayerReport) -> Drift:
    if a.feature is None or b.feature is None or len(a.feature.mean) != len(b.feature.mean):
        return Drift(math.nan, math.nan)
    old, new = np.sqrt(a.feature.variance), np.sqrt(b.feature.variance)
    shifts = (b.feature.mean - a.feature.mean, new - old)
    return Drift(*(_ratio(float(np.linalg.norm(shift)), float(np.linalg.norm(old))) for shift in shifts))


def _ln_drift(a: LayerReport, b: LayerReport) -> Drift:
    if a.token is None or b.token is None:
        return Drift(math.nan, math.nan)
    (m_a, v_a), (m_b, v_b) = ((x.mean.mean, x.variance.mean) for x in (a.token, b.token))
    return Drift(_ratio(abs(m_b - m_a), math.sqrt(v_a)), _ratio(abs(v_b - v_a), v_a))


def _ratio(difference: float, scale: float) -> float:
    return difference / scale if scale else math.nan


def _warnings(a: Report, b: Report, pairs: list[tuple[str, str]]) -> Iterator[str]:
    for name in _SAME:
        old, new = ("none" if value is None else value for value in (getattr(r.run, name) for r in (a, b)))
        if old != new:
            yield f"run.{name} is {old} in A and {new} in B, so the numbers differ for that, too"
    renamed = [pair for pair in pairs if pair[0] != pair[1]]
    if renamed:
        yield f"names differ, so layers were matched by their order: {_first(renamed)}"
    resized = [pair for pair in pairs if a.layers[pair[0]].features != b.layers[pair[1]].features]
    if resized:
        yield f"numbers of features differ, so BN statistics are not compared: {_first(resized)}"
    kinds = [pair for pair in pairs if a.layers[pair[0]].kind != b.layers[pair[1]].kind]
    if kinds:
        yield f"kinds of layers differ: {_first(kinds)}"


def _first(pairs: list[tuple[str, str]]) -> str:
    (name, other), more = pairs[0], len(pairs) - 1
    both = f"{name} in A, {other} in B" if name != other else name
    return f"{both} and {more} more" if more else both


@dataclass(frozen=True)
class Bound:
    """An upper bound on the absolute value of one `metric` in every layer."""

    metric: str
    bound: float

    @classmethod
    def read(cls, text: str) -> "Bound":
        """Parse METRIC=VALUE; UsageError for an unknown metric, with similar ones, or an invalid value."""
        metric, _, value = (part.strip() for part in text.partition("="))
        if metric not in METRICS:
            near = difflib.get_close_matches(metric, METRICS, n=3, cutoff=0.4)
            hint = f"is it {', '.join(near)}?" if near else f"one of {', '.join(METRICS)}"
            raise UsageError(
                f"there is no metric {quoted(metric)} to compare; expected METRIC=VALUE ({hint})"
            )
        try:
            bound = float(value)
        except ValueError:
            bound = math.nan
        if not 0 <= bound < math.inf:
            raise UsageError(
                f"the bound of {metric} is {quoted(value)}; expected a number of 0 or more; give {metric}=0.1"
            )
        return cls(metric, bound)

    def crossed(self, comparison: Comparison | Track) -> list[str]:
        """Return a line for each layer above the bound, the largest value first.

        Raises ReportError when no layer has the metric, since nothing was tested then.
        """
        sizes = {name: abs(METRICS[self.metric](layer)) for name, layer in comparison.layers.items()}
        numbers = {name: size for name, size in sizes.items() if not math.isnan(size)}
        if not numbers:
            raise ReportError(
                f"no layer has {self.metric} in both reports; expected one to test; compare their layers"
            )
        above = sorted((n for n in numbers if numbers[n] > self.bound), key=lambda n: -numbers[n])
        return [f"{printable(n)}: {self.metric} {numbers[n]:.4g} is above {self.bound:.4g}" for n in above]

    def untested(self, comparison: Comparison | Track) -> list[str]:
        """Return the names of the layers without the metric, and of those without a counterpart."""
        read = METRICS[self.metric]
        unknown = [name for name, layer in comparison.layers.items() if math.isnan(read(layer))]
        alone = () if isinstance(comparison, Track) else (*comparison.only_a, *comparison.only_b)
        return [*unknown, *alone]
