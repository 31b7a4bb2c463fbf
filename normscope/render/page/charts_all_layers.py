"""Charts of all layers: agreement, explained variance, batch noise, damage, drift."""

import math

import altair as alt
import numpy as np

from normscope.escaping import printable
from normscope.render.batch_composition import ORDERS
from normscope.render.batches import excess_at, noise_at
from normscope.render.findings import findings
from normscope.render.grid import reword
from normscope.render.inspect import WIDE
from normscope.render.numbers import percent, short
from normscope.render.outliers import extreme_sizes
from normscope.render.page import captions
from normscope.render.page.chart_style import (
    BN,
    BN_SHADES,
    FACTORS,
    FEW_LAYERS,
    chart,
    chosen_ring,
    layer_axes,
    layer_points,
    layer_specification,
    log_axis,
    series,
    tooltips,
)
from normscope.render.page.figure import Figure, Slice, Tile, Value, positive, rounded
from normscope.render.page.parts import MAX_MOVERS, PagePart
from normscope.render.summary import agreement as agreement_of
from normscope.render.summary import explained_share, fit_r2
from normscope.results.batches import BatchReport
from normscope.results.compare import Comparison
from normscope.results.inspect import Report
from normscope.results.swap import SwapReport

_BATCH_SIZE = 8  # texts in the batches that the overview shows; without them, the nearest size

_NUMBERS = alt.Axis(tickCount=6, format="~g")
_FROM_ZERO = alt.Scale(zero=True)
_EXTREMES = {"input": "largest |input|", "output": "largest |output|", "room": "headroom of float16"}
_SHARES = [-1, -0.5, 0, 0.2, 0.4, 0.6, 0.8, 1]


def agreement(part: PagePart, report: Report) -> Figure:
    """Draw each layer's agreement with BatchNorm."""
    layers = part.numbered(report.layers)
    values = np.array([agreement_of(layer) for _, layer in layers])
    columns: dict[str, list[Value]] = {
        **part.columns([number for number, _ in layers]),
        "agreement": rounded(values),
        "fit": rounded(fit_r2(layer) for _, layer in layers),
    }
    heads = {"name": "layer", "agreement": "agreement with BN", "fit": "best BN fit r2"}
    if any(layer.extremes for _, layer in layers):
        sizes = zip(*(extreme_sizes(layer) for _, layer in layers), strict=True)
        columns |= {name: rounded(values) for name, values in zip(_EXTREMES, sizes, strict=True)}
        heads |= _EXTREMES
    lowest = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    # The number after the longest bar has room on a phone, too.
    scale, shares = alt.Scale(domain=[lowest, 1.2]), alt.Axis(values=_SHARES, format="~g")
    axes = layer_axes("agreement:Q", len(layers), title="agreement with BN", scale=scale, axis=shares)
    base = chart().encode(**axes)
    drawn = base.mark_bar(cornerRadiusEnd=2, color=BN, strokeWidth=2).encode(
        stroke=chosen_ring(), tooltip=tooltips(heads, "agreement", "fit", *_EXTREMES)
    )
    if len(layers) <= FEW_LAYERS:
        drawn += base.mark_text(align="left", dx=4, clip=False).encode(
            text=alt.Text("agreement:Q", format=".2f")
        )
    return Figure(
        "agreement",
        "How close is each layer's output to BatchNorm's?",
        layer_specification(drawn, len(layers)),
        [Slice(columns, findings(report, WIDE)[0])],
        heads,
        ["agreement.feature", "extremes", "extremes.headroom"],
        ["A frame marks the layer that is shown below."],
        tiles=[Tile("Agreement with BN", captions.median(values), captions.by_layer(values))],
    )


def explained(part: PagePart, report: Report) -> Figure | None:
    """Draw how much of each layer's input position, text and word explain; None where none is known."""
    layers, text = part.numbered(report.layers), reword("text", report.run.medium)
    shares = {
        name: np.array([explained_share(layer, by) for _, layer in layers])
        for name, by in (("position", "position"), (text, "sequence"), ("word", "token"))
    }
    shares = {name: values for name, values in shares.items() if np.isfinite(values).any()}
    if not shares:
        return None
    columns: dict[str, list[Value]] = {
        **part.columns([number for number, _ in layers] * len(shares)),
        "by": [name for name in shares for _ in layers],
        "share": rounded(value for values in shares.values() for value in values),
    }
    heads = {"name": "layer", "by": "explained by", "share": "share (epsilon squared)"}
    axes = layer_axes(
        "share:Q",
        len(layers),
        title="share of the variance",
        axis=alt.Axis(format="%", tickCount=6),
        scale=_FROM_ZERO,
    )
    percents = shares.get("position", np.array([]))
    return Figure(
        "explained",
        "What explains the input's variance?",
        layer_points(axes, series("by", [*shares], FACTORS), tooltips(heads, "share"), len(layers)),
        [Slice(columns, captions.explained([layer.name for _, layer in layers], shares))],
        heads,
        ["explained.position", "explained.position.epsilon2"],
        tiles=[
            Tile(
                "Variance that position explains",
                captions.median(percents, percent),
                captions.by_layer(percents, percent),
            )
        ],
    )


def noise(part: PagePart, report: BatchReport) -> Figure | None:
    """Draw how noisy each layer's batch means are at one size, by order; None where none is known."""
    layers = part.numbered(report.layers)
    rows = [row for _, layer in layers for row in layer.sizes or ()]
    if not rows:
        return None
    size = min((row.batch_size for row in rows), key=lambda size: (abs(math.log(size / _BATCH_SIZE)), size))
    orders = {row.order for row in rows if row.batch_size == size}
    by, excess = (
        {
            name: np.array([read(layer, size, order) for _, layer in layers])
            for order, name in ORDERS.items()
            if order in orders
        }
        for read in (noise_at, excess_at)
    )
    columns: dict[str, list[Value]] = {
        **part.columns([number for number, _ in layers] * len(by)),
        "order": [name for name in by for _ in layers],
        "noise": rounded(value for values in by.values() for value in values),
    }
    heads = {"name": "layer", "order": "batches", "noise": "noise of the mean"}
    axes = layer_axes(
        "noise:Q", len(layers), title="noise of the mean, in sd", axis=_NUMBERS, scale=_FROM_ZERO
    )
    first = next(iter(by.values()))
    return Figure(
        "noise",
        f"How far off are the means of {size} texts?",
        layer_points(
            axes, series("order", [*by], BN_SHADES, "batches"), tooltips(heads, "noise"), len(layers)
        ),
        [Slice(columns, captions.noise([layer.name for _, layer in layers], size, by, excess))],
        heads,
        ["tid.mean"],
        tiles=[Tile(f"Noise of BN's means, {size} texts", captions.median(first), captions.by_layer(first))],
    )


def damage(part: PagePart, report: SwapReport) -> Figure:
    """Draw what replacing each layer alone does, with its interval."""
    layers = part.numbered(report.layers)
    headless = report.baseline.loss is None
    intervals = np.array([captions.damage_interval(layer.effect) for _, layer in layers]).reshape(-1, 3).T
    write = rounded if headless else positive
    columns: dict[str, list[Value]] = {
        **part.columns([number for number, _ in layers]),
        **{name: write(values) for name, values in zip(("damage", "low", "high"), intervals, strict=True)},
    }
    heads = {"name": "layer", "damage": "damage", "low": "95% from", "high": "95% to"}
    unit = "1 - cosine of the hidden state" if headless else "KL in nats"
    options = (
        {"title": unit, "scale": _FROM_ZERO, "axis": _NUMBERS}
        if headless
        else log_axis("x" if len(layers) <= FEW_LAYERS else "y", unit)
    )
    base = chart()
    rules = base.mark_rule(strokeWidth=2, color=BN).encode(
        **layer_axes("low:Q", len(layers), end="high:Q", **options)
    )
    points = base.mark_point(filled=True, size=60, opacity=1, color=BN).encode(
        stroke=chosen_ring(),
        tooltip=tooltips(heads, "damage", "low", "high"),
        **layer_axes("damage:Q", len(layers), **options),
    )
    return Figure(
        "damage",
        f"What breaks when a layer is replaced by {printable(report.kind)}?",
        layer_specification(rules + points, len(layers)),
        [Slice(columns, captions.damage(report))],
        heads,
        ["effect.hidden_cosine" if headless else "effect.kl", "effect.damage"],
        ["The line through a point is its 95% interval."],
        tiles=[
            Tile(
                f"All layers replaced by {printable(report.kind)}",
                short(captions.damage_interval(report.all_.effect)[0]),
                unit,
            )
        ],
    )


# The changes in the table and the tooltips of the layers that moved: their titles, and their fields.
_CHANGES = {
    "agreement": "agreement",
    "headroom": "headroom",
    "input": "largest_input",
    "output": "largest_output",
    "mean share": "mean_share",
}


def movers(part: PagePart, comparison: Comparison) -> Figure:
    """Draw the layers that moved most between two reports, those first."""
    layers = list(comparison.layers.values())
    names, rooms = [layer.name for layer in layers], [layer.headroom_change for layer in layers]
    means = np.array([layer.bn_drift.mean for layer in layers])
    spreads = np.array([layer.bn_drift.variance for layer in layers])
    shown = layers[:MAX_MOVERS]
    statistics = ["mean", "sd"]
    columns: dict[str, list[Value]] = {
        **part.columns([part.layers.index(layer.name) for layer in shown] * 2),
        "what": [statistic for statistic in statistics for _ in shown],
        "moved": rounded([*means[: len(shown)], *spreads[: len(shown)]]),
        **{
            title: rounded([getattr(layer, f"{field}_change") for layer in shown] * 2)
            for title, field in _CHANGES.items()
        },
    }
    heads = {"name": "layer", "what": "BN's", "moved": "moved by"}
    heads |= {title: f"{title} change" for title in _CHANGES}
    axes = layer_axes("moved:Q", len(shown), title="moved by, in A's sd", scale=_FROM_ZERO, axis=_NUMBERS)
    colours = series("what", statistics, BN_SHADES, "BN's")
    few = f", the {len(shown)} that moved most" if len(shown) < len(layers) else ""
    return Figure(
        "movers",
        f"How far did BN's statistics move{few}?",
        layer_points(axes, colours, tooltips(heads, "moved", *_CHANGES), len(shown)),
        [Slice(columns, f"{captions.movers(names, means, spreads)} {captions.headroom(names, rooms)}")],
        heads,
        ["bn_drift.mean", "bn_drift.variance", *(f"{field}_change" for field in _CHANGES.values())],
        tiles=[
            Tile("BN's means moved by", captions.median(means), captions.by_layer(means)),
            Tile("BN's sds moved by", captions.median(spreads), captions.by_layer(spreads)),
        ],
    )
