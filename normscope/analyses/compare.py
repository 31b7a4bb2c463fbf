"""Compares two reports layer by layer, and checks bounds on how far the statistics moved."""

import difflib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope._version import __version__
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted
from normscope.results.compare import Compared, Comparison, Drift, LayerDrift
from normscope.results.inspect import LayerReport, Report
from normscope.results.reading import read_report

# The metrics that a bound can test: one number per layer, by its path in the JSON.
METRICS: dict[str, Callable[[LayerDrift], float]] = {
    "bn_drift.mean": lambda layer: layer.bn_drift.mean,
    "bn_drift.variance": lambda layer: layer.bn_drift.variance,
    "ln_drift.mean": lambda layer: layer.ln_drift.mean,
    "ln_drift.variance": lambda layer: layer.ln_drift.variance,
    "agreement_change": lambda layer: layer.agreement_change,
    "position_change": lambda layer: layer.position_change,
}
# Numbers are comparable only where these are the same.
_SAME = ("special_tokens", "max_length")


def compare(a: Report | str | os.PathLike[str], b: Report | str | os.PathLike[str]) -> Comparison:
    """Return how far report `b` is from report `a`, layer by layer; either may be the path of a file.

    Layers are matched by name; the remaining layers are matched by their order. For each layer:

    - `bn_drift.mean` = ||mu_b - mu_a||_2 / ||sd_a||_2 and `bn_drift.variance` = ||sd_b - sd_a||_2 /
      ||sd_a||_2 over features, of the statistics that BatchNorm would keep: Training Inference
      Discrepancy in its norm-ratio form (Wang et al., NeurIPS 2022, arXiv 2210.05153);
    - `ln_drift.mean` = |m_b - m_a| / sqrt(v_a) and `ln_drift.variance` = |v_b - v_a| / v_a, m and v
      being the averages of the tokens' own means and variances;
    - `agreement_change` and `position_change`: agreement with BN, and what position explains
      (epsilon squared), in b less in a.

    A number is NaN where either report does not know it. Raises ReportError for a file that is no report.
    """
    a, b = (report if isinstance(report, Report) else read_report(report) for report in (a, b))
    pairs = list(_pairs(list(a.layers), list(b.layers)))
    found = [_layer(a.layers[name], b.layers[other]) for name, other in pairs]
    matched_a, matched_b = ({pair[side] for pair in pairs} for side in (0, 1))
    return Comparison(
        __version__,
        (Compared(a.model, a.run), Compared(b.model, b.run)),
        {layer.name: layer for layer in sorted(found, key=moved, reverse=True)},
        tuple(name for name in a.layers if name not in matched_a),
        tuple(name for name in b.layers if name not in matched_b),
        tuple(_warnings(a, b, pairs)),
    )


def moved(layer: LayerDrift) -> float:
    """Return how far a layer moved: the larger of its two BN drifts, -1 where neither is known."""
    both = (layer.bn_drift.mean, layer.bn_drift.variance)
    return max((value for value in both if value >= 0), default=-1.0)


def _pairs(a: list[str], b: list[str]) -> Iterator[tuple[str, str]]:
    """Match the names that both lists have, then match the remaining names by their order."""
    names = set(a) & set(b)
    rest = zip((n for n in a if n not in names), (n for n in b if n not in names), strict=False)
    yield from ((name, name) for name in a if name in names)
    yield from rest


def _layer(a: LayerReport, b: LayerReport) -> LayerDrift:
    before, after = (x.agreement.get("feature", math.nan) if x.agreement else math.nan for x in (a, b))
    explained = [x.explained.position.epsilon2 if x.explained else math.nan for x in (a, b)]
    return LayerDrift(
        name=a.name,
        other=b.name,
        index=a.index,
        kind=a.kind,
        bn_drift=_bn(a, b),
        ln_drift=_ln(a, b),
        agreement_change=after - before,
        position_change=explained[1] - explained[0],
    )


def _bn(a: LayerReport, b: LayerReport) -> Drift:
    if a.feature is None or b.feature is None or len(a.feature.mean) != len(b.feature.mean):
        return Drift(math.nan, math.nan)
    old, new = np.sqrt(a.feature.variance), np.sqrt(b.feature.variance)
    scale, norm = float(np.linalg.norm(old)), np.linalg.norm
    shift = float(norm(b.feature.mean - a.feature.mean))
    return Drift(_ratio(shift, scale), _ratio(float(norm(new - old)), scale))


def _ln(a: LayerReport, b: LayerReport) -> Drift:
    if a.token is None or b.token is None:
        return Drift(math.nan, math.nan)
    (m_a, v_a), (m_b, v_b) = ((x.mean.mean, x.variance.mean) for x in (a.token, b.token))
    return Drift(_ratio(abs(m_b - m_a), math.sqrt(v_a)), _ratio(abs(v_b - v_a), v_a))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _warnings(a: Report, b: Report, pairs: list[tuple[str, str]]) -> Iterator[str]:
    for name in _SAME:
        old, new = (_said(getattr(report.run, name)) for report in (a, b))
        if old != new:
            yield f"run.{name} is {old} in A and {new} in B, so the numbers differ for that, too"
    renamed = [pair for pair in pairs if pair[0] != pair[1]]
    if renamed:
        yield f"names differ, so layers were matched by their order: {_first(renamed)}"
    wide = [pair for pair in pairs if a.layers[pair[0]].features != b.layers[pair[1]].features]
    if wide:
        yield f"numbers of features differ, so BN statistics are not compared: {_first(wide)}"
    kinds = [pair for pair in pairs if a.layers[pair[0]].kind != b.layers[pair[1]].kind]
    if kinds:
        yield f"kinds of layers differ: {_first(kinds)}"


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _first(pairs: list[tuple[str, str]]) -> str:
    (name, other), more = pairs[0], len(pairs) - 1
    both = f"{name} in A, {other} in B" if name != other else name
    return f"{both} and {more} more" if more else both


@dataclass(frozen=True)
class Bound:
    """A bound that no layer's `metric` may be above, in size."""

    metric: str
    bound: float

    @classmethod
    def read(cls, text: str) -> "Bound":
        """Read METRIC=VALUE; UsageError says what else was expected, with the metrics that come near."""
        metric, _, value = (part.strip() for part in text.partition("="))
        if metric not in METRICS:
            near = difflib.get_close_matches(metric, METRICS, n=3, cutoff=0.4)
            known = f"is it {', '.join(near)}?" if near else f"one of {', '.join(METRICS)}"
            raise UsageError(
                f"there is no metric {quoted(metric)} to compare; expected METRIC=VALUE ({known})"
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

    def crossed(self, comparison: Comparison) -> list[str]:
        """Say which layers are above the bound, the furthest first, a line each.

        Raises ReportError when no layer has that number: then nothing was tested.
        """
        sizes = {name: abs(METRICS[self.metric](layer)) for name, layer in comparison.layers.items()}
        known = {name: size for name, size in sizes.items() if not math.isnan(size)}
        if not known:
            raise ReportError(
                f"no layer has {self.metric} in both reports; expected one to test; compare their layers"
            )
        above = sorted((name for name in known if known[name] > self.bound), key=lambda n: -known[n])
        return [f"{printable(n)}: {self.metric} {known[n]:.4g} is above {self.bound:.4g}" for n in above]

    def untested(self, comparison: Comparison) -> list[str]:
        """Name the layers whose number is unknown, and those without a counterpart."""
        metric: Any = METRICS[self.metric]
        unknown = [name for name, layer in comparison.layers.items() if math.isnan(metric(layer))]
        return [*unknown, *comparison.only_a, *comparison.only_b]
