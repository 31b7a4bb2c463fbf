"""Tables of one layer in detail: by position and by feature, LN next to BN."""

import math
from collections.abc import Sequence

import numpy as np

from normscope.escaping import grouped, printable
from normscope.render.axis_downsampling import spaced_rows
from normscope.render.glyphs import Glyphs, logarithms, shares
from normscope.render.grid import Column, Grid
from normscope.render.numbers import align, aligned, percent, short
from normscope.render.outliers import notes_on
from normscope.render.summary import agreement
from normscope.results.common import Floats
from normscope.results.inspect import FeatureOutput, LayerReport, PositionStats, Report, Scale

_FEW_SAMPLES = 30  # with fewer samples at a position, its variance is a rough guess
_BAR = 10
_SPARK = 40
SHORT_KINDS = {"layernorm": "LN", "rmsnorm": "RMS"}


def least_agreeing(report: Report) -> list[str]:
    """Return the name of the layer that agrees least with BN, or else of the first that was called."""
    called = [layer for layer in report.layers.values() if layer.calls]
    measured = [layer for layer in called if math.isfinite(agreement(layer))]
    return [layer.name for layer in ([min(measured, key=agreement)] if measured else called[:1])]


def chosen_layers(report: Report, layers: Sequence[str]) -> dict[str, str]:
    """Return the reason to show each layer in detail; without any `layers`, of the least agreeing one."""
    if layers:
        return dict.fromkeys(layers, "")
    reason = "Shown since it agrees least with BN; --layer GLOB shows others."
    return dict.fromkeys(least_agreeing(report), reason)


def title(layer: LayerReport) -> list[str]:
    """Return the facts about a layer that stand above its tables."""
    if not layer.calls:
        return [printable(layer.name), "never called"]
    about = [f"{grouped(layer.features)} features", f"eps {short(layer.eps, 1)}", f"affine {layer.affine}"]
    return [printable(part) for part in (layer.name, layer.kind, *about)]


def position_table(layer: LayerReport, top: int, glyphs: Glyphs) -> Grid | None:
    """Return the table of at most `top` positions where tokens were counted, None without any."""
    stats = layer.position
    if stats is None or not stats.count.any():
        return None
    reached = np.flatnonzero(stats.count)
    rows = reached[spaced_rows(len(reached), top)].tolist()
    marks = ["*" if count < _FEW_SAMPLES else " " for count in stats.count[rows]]
    counts = align(grouped(int(count)) for count in stats.count[rows])
    bars = [
        glyphs.bar(0.1 + 0.9 * share, _BAR) for share in shares(logarithms(stats.variance[rows]).tolist())
    ]
    spread = stats.token_variance_std
    columns = [
        Column("position", "", align(_position_names(stats, rows))),
        Column("texts", "", [count + mark for count, mark in zip(counts, marks, strict=True)]),
        Column("LN mean", "average", aligned(stats.token_mean[rows]), "ln", rank=3),
        Column("LN variance", "average", aligned(stats.token_variance[rows]), "ln"),
        *([] if spread is None else [Column("LN variance", "sd", aligned(spread[rows]), "ln")]),
        *_range_columns(stats, rows),
        Column("BN variance", "per position", aligned(stats.variance[rows]), "bn"),
        Column("", "log scale", bars, "bn", rank=2),
    ]
    return Grid("By position", columns, _position_notes(stats, layer.global_, rows, glyphs))


def feature_table(layer: LayerReport, top: int, glyphs: Glyphs) -> Grid | None:
    """Return the table of the `top` features that the layer leaves furthest from mean 0 and variance 1."""
    stats, output = layer.feature, layer.own_output
    if stats is None or not len(stats.mean):
        return None
    unknown = np.full(len(stats.mean), math.nan)
    left = output or FeatureOutput(unknown, unknown)  # the moments that the layer leaves each feature
    distance = distances(left)
    rows = largest(distance if output else stats.variance, top)
    furthest = float(np.nanmax(distance)) if np.isfinite(distance).any() else math.nan
    who = SHORT_KINDS.get(layer.kind, "layer")
    columns = [
        Column("feature", "", align(str(row) for row in rows)),
        Column("BN mean", "input", aligned(stats.mean[rows]), "bn", rank=2),
        Column("BN variance", "input", aligned(stats.variance[rows]), "bn"),
        Column(f"{who} leaves", "mean", aligned(left.mean[rows]), "ln"),
        Column(f"{who} leaves", "variance", aligned(left.variance[rows]), "ln"),
        Column("distance", "from 0, 1", aligned(distance[rows])),
        Column("", "", [glyphs.bar(d / furthest if furthest else 0.0, _BAR) for d in distance[rows]], rank=3),
    ]
    notes = _feature_notes(left, len(rows), glyphs) if output else []
    return Grid("By feature", columns, notes + notes_on(layer))


def distances(output: FeatureOutput) -> Floats:
    """Return how far LN leaves each feature from BN's mean 0 and variance 1: mean^2 + (sd - 1)^2, (D,).

    This is the squared 2-Wasserstein distance between the normal distributions with these moments.
    """
    result: Floats = output.mean**2 + (np.sqrt(output.variance) - 1) ** 2
    return result


def share_near_bn(output: FeatureOutput) -> float:
    """Return the share of features whose sd is within 10% of BN's 1, NaN when no sd is known."""
    deviations = np.sqrt(output.variance)
    finite = deviations[np.isfinite(deviations)]
    return float(np.mean(np.abs(finite - 1) <= 0.1)) if len(finite) else math.nan


def _position_names(stats: PositionStats, rows: Sequence[int]) -> list[str]:
    """Return the positions of rows; a bin of several positions is its first position and a +."""
    numbers, exact = stats.numbers, len(stats.count)  # the first `exact` rows are single positions
    if stats.first is not None:
        shifted = np.flatnonzero(numbers != np.arange(len(numbers)))
        exact = int(shifted[0]) - 1 if len(shifted) else len(numbers) - 1
    return [f"{numbers[row]}{'+' if row >= exact else ''}" for row in rows]


def largest(values: Floats, top: int) -> list[int]:
    """Return the places of the `top` largest numbers, at least one; unknown numbers come last."""
    order = np.argsort(-np.nan_to_num(values, nan=-math.inf), kind="stable")
    return [int(row) for row in order[: max(top, 1)]]


def _range_columns(stats: PositionStats, rows: list[int]) -> list[Column]:
    """Return the columns that reports of earlier versions lack."""
    low, high, far = stats.token_variance_min, stats.token_variance_max, stats.far
    if low is None or high is None or far is None:
        return []
    return [
        Column("LN variance", "min", aligned(low[rows]), "ln", rank=4),
        Column("LN variance", "max", aligned(high[rows]), "ln", rank=4),
        Column("2x off", "tokens", align(percent(share) for share in far[rows].tolist())),
    ]


def _position_notes(
    stats: PositionStats, whole: Scale | None, rows: Sequence[int], glyphs: Glyphs
) -> list[str]:
    reached = np.flatnonzero(stats.count)
    length, first, last = len(reached), stats.numbers[reached[0]], stats.numbers[reached[-1]]
    unit = "positions" if stats.first is None else "positions and bins of them"
    shown = f"{len(rows)} of {length} {unit}. " if len(rows) < length else ""
    notes = [f"{shown}LN: each token has its own variance; BN: all share one number."]
    if stats.token_variance_std is not None:
        notes.append("sd: how far the tokens' own variances spread around their average.")
    if stats.far is not None and whole is not None:
        notes.append(
            "2x off: tokens whose own variance is over twice or under half of the layer's one for BN, "
            f"{short(whole.variance)}."
        )
    if stats.first is not None:
        notes.append("+: this position and those up to the next share a bin; texts: the tokens in it.")
    if (stats.count[list(rows)] < _FEW_SAMPLES).any():
        notes.append(f"* fewer than {_FEW_SAMPLES} texts reach it: the variance rests on few samples.")
    if length > 1:
        spark = glyphs.spark(logarithms(stats.variance[reached]), _SPARK)
        notes.append(f"BN variance at {first}{glyphs.ellipsis}{last}, log scale: {spark}")
    return notes


def _feature_notes(output: FeatureOutput, rows: int, glyphs: Glyphs) -> list[str]:
    deviations = np.sort(np.sqrt(output.variance[np.isfinite(output.variance)]))
    notes = [
        f"The {rows} of {grouped(len(output.mean))} features furthest from BN's mean 0 and variance 1.",
        "distance = mean^2 + (sd - 1)^2.",
    ]
    if len(deviations):
        low, high = short(deviations[0], 2), short(deviations[-1], 2)
        notes.append(f"sd of every feature, sorted: {low} {glyphs.spark(deviations, _SPARK)} {high}")
        notes.append(f"{percent(share_near_bn(output))} of the features have an sd within 10% of BN's 1.")
    return notes
