"""Reads one layer's moments as its part of the report; tensors become numpy arrays only here."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normscope.capture.layer_capture import LayerCapture
from normscope.escaping import counted
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import fitting
from normscope.results.common import Counts, Summary
from normscope.results.curve import InputOutputCurve
from normscope.results.inspect import (
    AffineFit,
    AffineOutliers,
    Explained,
    Extreme,
    Extremes,
    FeatureOutput,
    FeatureStats,
    FirstPosition,
    GroupStats,
    LargeFeatures,
    LayerReport,
    MassiveActivations,
    Outliers,
    PositionStats,
    Scale,
    StoredGap,
)
from normscope.statistics import metrics
from normscope.statistics.accumulator import Accumulator, Groups
from normscope.statistics.curve_histogram import CurveHistogram
from normscope.statistics.extremes import UNKNOWN, LargestValue
from normscope.statistics.layer_state import LayerState
from normscope.statistics.layout import is_own_sequence
from normscope.statistics.moments import Moments, Spread
from normscope.statistics.position_bins import Bins
from normscope.statistics.views import COMPARED, WITHOUT_POSITIONS, cells

# The maximum number of features, and of positions, that are listed for massive activations.
_LISTED = 16
# A warning is given if float16 has room for less than this many times the largest value.
_LITTLE_ROOM = 8


def layer_report(capture: LayerCapture) -> LayerReport:
    """Return all measurements of one layer; a layer that was never called has only its description."""
    norm = capture.norm
    unknown: dict[str, Any] = dict.fromkeys(_PARTS)
    described = LayerReport(
        name=norm.name,
        index=norm.index,
        module=type(norm.module).__name__,
        kind=norm.kind,
        features=norm.features,
        eps=norm.eps,
        affine=norm.affine,
        calls=0,
        layout=None,
        count=0,
        nonfinite=0,
        own_error=math.nan,
        **unknown,
    )
    return fill(described, capture.state, _affine_outliers(norm))


def fill(layer: LayerReport, state: LayerState, affine: AffineOutliers | None) -> LayerReport:
    """Return a copy of the description `layer`, filled with the measurements in `state`."""
    moments = state.moments
    parts: dict[str, Any] = {}
    if moments is not None and moments.count:
        parts = measurements(moments, state.positioned, state.exact)
        parts["outliers"] = replace(parts["outliers"], affine_outliers=affine)
    return replace(
        layer,
        calls=state.calls,
        layout=state.layout,
        count=moments.count if moments is not None else 0,
        nonfinite=state.nonfinite,
        own_error=state.own_error(),
        **{**dict.fromkeys(_PARTS), **parts},
        stored_gap=_stored_gap(state),
    )


_PARTS = (
    "token", "feature", "position", "sequence", "instance", "global_",
    "own_output", "agreement", "affine_fit", "explained", "first_position", "outliers",
)  # fmt: skip


def notes_on(layer: LayerReport, state: LayerState) -> list[str]:
    """Return a sentence for each reason why this layer was not measured in full."""
    notes = []
    if state.nonfinite:
        every, were = "" if state.moments else "all ", "was" if state.nonfinite == 1 else "were"
        notes.append(f"{every}{counted(state.nonfinite, 'token')} with NaN or infinity {were} left out")
    if set(state.guesses) - {state.known_layout}:
        guess = " or ".join(map(str, state.guesses))
        notes.append(f"sizes coincide, so its axes were taken as {guess}, which may be wrong")
    if state.misfits:
        notes.append(f"{state.misfits} calls with another number of features were left out")
    if state.unreadable:
        odd = "a nested, sparse, quantized or complex input"
        notes.append(f"{state.unreadable} calls with {odd} were left out")
    if state.calls and None in state.layouts:
        notes.append(
            "its input's axes do not match the model's tokens, so rows are pooled, padding "
            "included, and only the feature and global views are given"
        )
    elif any(is_own_sequence(layout) for layout in state.layouts):
        notes.append(
            f"its rows are a sequence of its own, {state.layout}, not the model's tokens, "
            "so padding counts where there is any"
        )
    elif state.calls and not state.positioned:
        notes.append("it sees one row a sample, so it has no positions")
    differs = state.own_error() > 1e-3 + 64 * state.precision
    if state.padded and (state.unfitted or differs):
        whole = "the whole batch" if layer.kind == "batchnorm" else "whole samples"
        effect = (
            "only its input is measured" if state.unfitted else "its own output and agreement are approximate"
        )
        notes.append(f"it normalises by the statistics of {whole}, padding included, so {effect}")
    elif state.unfitted:
        notes.append(f"{layer.module} matches no formula of ours, so only its input is measured")
    elif differs:
        notes.append(
            f"its output is up to {state.own_error():.1g} rms from what its formula gives, "
            "so its own output and agreement are approximate"
        )
    return notes


def headroom_notes(layers: Iterable[LayerReport]) -> list[str]:
    """Return one sentence on the layers whose values come close to float16's maximum, or an empty list."""
    rooms = {layer.name: layer.extremes.headroom for layer in layers if layer.extremes is not None}
    short = [name for name, room in rooms.items() if room < _LITTLE_ROOM]
    if not short:
        return []
    worst = min(short, key=lambda name: rooms[name])
    others = f" and {len(short) - 1} more" if len(short) > 1 else ""
    return [
        f"{worst}{others}: the largest value is over an eighth of float16's maximum "
        f"(headroom {rooms[worst]:.2g}), so float16 may overflow on other texts; use bfloat16 or float32"
    ]


def pooling_notes(layers: Iterable[LayerReport]) -> list[str]:
    """Return one sentence on all layers whose calls in a forward were pooled, or an empty list."""
    several = [layer for layer in layers if layer.call is None and layer.calls_per_forward > 1]
    if not several:
        return []
    maximum, more = max(layer.calls_per_forward for layer in several), len(several) - 1
    others = f" and {more} more" if more else ""
    return [
        f"{several[0].name}{others}: called up to {maximum} times in a forward, all calls pooled; "
        "per_call (--per-call) tells them apart"
    ]


def _stored_gap(state: LayerState) -> StoredGap | None:
    """Compare the running statistics of a BatchNorm with those of the corpus; None without any."""
    if state.moments is None or state.stored is None:
        return None
    return StoredGap(*metrics.stored_gap(cells(state.moments, "feature").x, *state.stored))


def _affine_outliers(norm: NormLayer) -> AffineOutliers | None:
    """Find the outliers in a layer's weight and bias; None if neither is a vector."""
    vectors = [fitting(norm.module, name, norm.features, torch.float64) for name in ("weight", "bias")]
    features = [
        None if values is None or values.numel() == 1 else _indices(metrics.affine_outliers(values))
        for values in vectors
    ]
    return None if all(part is None for part in features) else AffineOutliers(*features)


def measurements(moments: Accumulator, positioned: bool, exact: int | None = None) -> dict[str, Any]:
    """Return the measured parts of a layer's report by their field names.

    `exact` is the number of positions with a bin of their own; later positions share bins.
    """
    first = _first_positions(moments, exact)
    by_feature, everything = cells(moments, "feature"), cells(moments, "global").x
    parts: dict[str, Any] = {
        "token": _group_stats(moments.token),
        "feature": FeatureStats(moments.count, _array(by_feature.x.mean), _array(by_feature.x.variance())),
        "global_": Scale(float(everything.mean), float(everything.variance())),
        "agreement": _agreement(moments, positioned),
        "outliers": _outliers(moments, positioned, first),
        "extremes": _extremes(moments),
        "curve": _curve(moments.curve),
        "mean_share": metrics.mean_share(moments),
        "mean_share_energy": metrics.mean_share_energy(moments),
    }
    if not math.isnan(float(moments.output.mean.sum())):
        output = moments.output
        parts["own_output"] = FeatureOutput(_array(output.mean), _array(output.variance()))
        parts["affine_fit"] = AffineFit(metrics.affine_fit(by_feature, output))
    return {**parts, **_by_position(moments, first)} if positioned else parts


def _first_positions(moments: Accumulator, exact: int | None) -> Counts | None:
    if exact is None or moments.positions <= exact:
        return None
    return np.asarray(Bins(exact).first(moments.positions), dtype=np.int64)


def _by_position(moments: Accumulator, first: Counts | None) -> dict[str, Any]:
    position, tokens = cells(moments, "position").x, moments.by_position
    rms, rest = metrics.first_position(tokens)
    return {
        "position": PositionStats(
            count=_array(tokens.count).astype(np.int64),
            mean=_array(position.known_mean()),
            variance=_array(position.variance()),
            token_mean=_array(tokens.known_mean()[:, 0]),
            token_variance=_array(tokens.known_mean()[:, 1]),
            first=first,
            token_variance_std=_array(tokens.variance()[:, 1].sqrt()),
            **_variance_range(moments),
        ),
        "sequence": _group_stats(moments.sequence),
        "instance": _group_stats(moments.instance),
        "explained": Explained(
            position=metrics.explained_by_position(moments),
            sequence=metrics.explained_by_sample(moments),
            token=metrics.explained_by_token(moments),
        ),
        "first_position": FirstPosition(rms, rest, metrics.ratio(rms, rest)),
    }


def _variance_range(moments: Accumulator) -> dict[str, Any]:
    """Return the range of the tokens' variances and the share far from BN's one; nothing if unknown."""
    variances = moments.variances
    if bool(variances.low.isnan().any()):  # Moments of an earlier version.
        return {}
    filled = moments.by_position.count > 0
    return {
        "token_variance_min": _array(variances.low.where(filled, torch.nan)),
        "token_variance_max": _array(variances.high.where(filled, torch.nan)),
        "far": _array(variances.far(float(cells(moments, "global").x.variance()))),
    }


def _extremes(moments: Accumulator) -> Extremes | None:
    """Return the largest values of the layer; None in moments of an earlier version."""
    extremes = moments.extremes
    if bool(extremes.input.value.isnan()):
        return None
    both = [_extreme(one) for one in (extremes.input, extremes.output)]
    headroom = metrics.headroom(max(one.value for one in both))
    output = both[1] if moments.outliers.tokens else None
    bits = math.log2(headroom) if headroom else math.nan  # An output that has overflowed leaves no room.
    return Extremes(both[0], output, _array(extremes.feature), headroom, bits)


def _curve(counted: CurveHistogram | None) -> InputOutputCurve | None:
    """Return the curve of a layer; None if it was not requested, or no output is known."""
    if counted is None or not int(counted.histogram.sum()):
        return None
    input_end, output_end, counts = counted.picture()
    inside = counts[1:-1, 1:-1]
    beyond, (x, y) = int(counts.sum() - inside.sum()), inside.nonzero().T
    bins = map(_indices, (x, y, inside[x, y]))
    return InputOutputCurve(2.0**input_end, 2.0**output_end, beyond, *bins)


def _extreme(extreme: LargestValue) -> Extreme:
    places = [None if place == UNKNOWN else place for place in extreme.place.tolist()]
    return Extreme(float(extreme.value), *places)


def _outliers(moments: Accumulator, positioned: bool, first: Counts | None) -> Outliers:
    """Return the outliers of the layer's input and output; the affine is not in the moments."""
    outliers = moments.outliers
    large = metrics.large_features(outliers)
    positions = _indices(metrics.largest(outliers.massive_positions[:, 0], _LISTED if positioned else 0))
    shares, largest = _array(outliers.large[large] / max(1, outliers.tokens)), _array(outliers.largest[large])
    return Outliers(
        llm_int8=LargeFeatures(_indices(large), shares, largest) if outliers.tokens else None,
        massive=MassiveActivations(
            count=int(outliers.massive.sum()),
            largest=float(outliers.massive_largest) or math.nan,
            features=_indices(metrics.largest(outliers.massive, _LISTED)),
            positions=positions if first is None else first[positions],
        ),
        affine_outliers=None,
        sd_ratio=metrics.sd_ratio(cells(moments, "feature").x),
    )


def _agreement(moments: Accumulator, positioned: bool) -> dict[str, float]:
    views = COMPARED if positioned else WITHOUT_POSITIONS
    return {view: metrics.agreement(moments, view) if view in views else math.nan for view in COMPARED}


def _group_stats(groups: Groups) -> GroupStats:
    return GroupStats(summary_of(groups.mean), summary_of(groups.variance))


def summary_of(spread: Spread) -> Summary:
    """Return a spread as count, mean, standard deviation, minimum and maximum."""
    moments: Moments = spread.moments
    std = math.sqrt(float(moments.variance()))
    return Summary(
        int(moments.count), float(moments.known_mean()), std, float(spread.low), float(spread.high)
    )


def _indices(values: Tensor) -> Counts:
    return np.asarray(values.cpu().numpy(), dtype=np.int64)


def _array(values: Tensor) -> Any:
    return values.detach().cpu().numpy().reshape(-1).copy()
