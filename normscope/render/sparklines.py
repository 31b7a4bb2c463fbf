"""Sparklines of BN's variance in all layers, by position and by feature, each kind on one log scale."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from normscope.render.axis_downsampling import AxisRuns
from normscope.render.glyphs import Glyphs, logarithms, shares
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport


def position_lines(layers: Sequence[LayerReport], cells: int, glyphs: Glyphs) -> list[str]:
    """Draw BN's variance by position, over the layer's own; late positions share cells."""
    return _lines([relative_by_position(layer) for layer in layers], cells, glyphs, "mean")


def feature_lines(layers: Sequence[LayerReport], cells: int, glyphs: Glyphs) -> list[str]:
    """Draw BN's sd of each feature, over the median feature's; a cell is the largest of its features."""
    return _lines([relative_by_feature(layer) for layer in layers], cells, glyphs, "max")


def relative_by_position(layer: LayerReport) -> Floats:
    """Return BN's variance at each position over the variance of the whole layer, (T,)."""
    whole = layer.global_.variance if layer.global_ else math.nan
    variance = layer.position.variance if layer.position else np.empty(0)
    return variance / (whole or math.nan)


def relative_by_feature(layer: LayerReport) -> Floats:
    """Return BN's sd of each feature over the median of all features, (D,)."""
    sd = np.sqrt(layer.feature.variance) if layer.feature else np.empty(0)
    median = float(np.nanmedian(sd)) if np.isfinite(sd).any() else math.nan
    return sd / (median or math.nan)


def _lines(rows: Sequence[Floats], cells: int, glyphs: Glyphs, by: Literal["mean", "max"]) -> list[str]:
    runs = [AxisRuns.over(len(row), cells, late=by == "mean") for row in rows]
    reduced = [run.reduce(logarithms(row), by).tolist() for run, row in zip(runs, rows, strict=True)]
    heights = iter(shares([value for row in reduced for value in row]))
    return [
        run.draw(glyphs.stairs([next(heights) for _ in row])) for run, row in zip(runs, reduced, strict=True)
    ]
