"""Charts of all layers: agreement, explained variance, batch noise, damage, drift."""

import math

import altair as alt
import numpy as np

from normscope.escaping import printable
from normscope.render.page import captions as words
from normscope.render.page.chart_style import (
    BLUE,
    BN,
    GREEN,
    LN,
    VERMILLION,
    chosen,
    finished,
    layer_axis,
    log_scale,
    ringed,
    series,
    shapes,
    stressed,
    tips,
)
from normscope.render.page.figure import DATA, Figure, Slice, Value, positive, rounded
from normscope.render.page.parts import MOST_MOVERS, PagePart
from normscope.results.batches import BatchReport, LayerNoise
from normscope.results.common import Floats
from normscope.results.compare import Comparison
from normscope.results.inspect import LayerReport, Report
from normscope.results.swap import Effect, SwapReport

SIZE = 8  # texts of the batches that the overview shows, or what is nearest

_SHARES = alt.Axis(values=[-1, -0.5, 0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")


def agreement(part: PagePart, report: Report) -> Figure:
    """Draw each layer's agreement with BatchNorm."""
    found = part.numbered(report.layers)
    values = np.array([_agreement(layer) for _, layer in found])
    columns: dict[str, list[Value]] = {
        **part.columns([i for i, _ in found]),
        "agreement": rounded(values),
        "fit": rounded(layer.affine_fit.r2 if layer.affine_fit else math.nan for _, layer in found),
    }
    base = alt.Chart(alt.NamedData(DATA)).encode(y=layer_axis())
    lowest = min(0.0, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    x = alt.X("agreement:Q", title="agreement with BN", scale=alt.Scale(domain=[lowest, 1.1]), axis=_SHARES)
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        x=x,
        color=stressed(BN, BLUE),
        tooltip=tips(name_n="layer", agreement_q="agreement with BN", fit_q="best BN fit r2"),
    )
    numbers = base.mark_text(align="left", dx=4, clip=False).encode(
        x=x, text=alt.Text("agreement:Q", format=".2f")
    )
    return Figure(
        "agreement",
        "How like BN's output is each layer's own?",
        finished((bars + numbers).add_params(chosen()), len(found)),
        [Slice(columns, words.agreement([layer.name for _, layer in found], values))],
        {"name": "layer", "agreement": "agreement with BN", "fit": "best BN fit r2"},
        ["agreement.feature"],
    )


def explained(part: PagePart, report: Report) -> Figure | None:
    """Draw how much of each layer's input position, text and word explain; None where none is known."""
    found = part.numbered(report.layers)
    by = {
        "position": np.array([_explained(layer, "position") for _, layer in found]),
        "text": np.array([_explained(layer, "sequence") for _, layer in found]),
        "word": np.array([_explained(layer, "token") for _, layer in found]),
    }
    by = {what: values for what, values in by.items() if np.isfinite(values).any()}
    if not by:
        return None
    places = [i for i, _ in found]
    columns: dict[str, list[Value]] = {
        **part.columns(places * len(by)),
        "by": [what for what in by for _ in places],
        "share": rounded(value for values in by.values() for value in values),
    }
    points = alt.Chart(alt.NamedData(DATA)).mark_point(filled=True, size=70, strokeWidth=2, opacity=1)
    chart = points.encode(
        y=layer_axis(),
        x=alt.X("share:Q", title="share of the variance", axis=alt.Axis(format="%")),
        color=series("by", [*by], [VERMILLION, BLUE, GREEN], "explained by"),
        shape=shapes("by", [*by], "explained by"),
        stroke=ringed(),
        tooltip=tips(name_n="layer", by_n="explained by", share_p="share"),
    )
    return Figure(
        "explained",
        "What explains the input's variance?",
        finished(chart.add_params(chosen()), len(found)),
        [Slice(columns, words.explained([layer.name for _, layer in found], by))],
        {"name": "layer", "by": "explained by", "share": "share (epsilon squared)"},
        ["explained.position", "explained.position.epsilon2"],
    )


def noise(part: PagePart, report: BatchReport) -> Figure | None:
    """Draw how noisy each layer's batch means are at one size, by order; None where none is known."""
    known = part.numbered(report.layers)
    sizes = {each.batch_size for _, layer in known for each in layer.sizes or ()}
    if not sizes:
        return None
    size = min(sizes, key=lambda each: (abs(math.log(each / SIZE)), each))
    orders = [order for order in words.ORDERS if any(_noise(layer, size, order) for _, layer in known)]
    by, excess = (
        {order: np.array([read(layer, size, order) for _, layer in known], dtype=float) for order in orders}
        for read in (_noise, _excess)
    )
    columns: dict[str, list[Value]] = {
        **part.columns([i for i, _ in known] * len(by)),
        "order": [words.ORDERS[order] for order in by for _ in known],
        "noise": rounded(value for values in by.values() for value in values),
    }
    names = [words.ORDERS[order] for order in by]
    chart = (
        alt.Chart(alt.NamedData(DATA))
        .mark_point(filled=True, size=70, strokeWidth=2, opacity=1)
        .encode(
            y=layer_axis(),
            x=alt.X("noise:Q", title="noise of the mean (TID)", axis=alt.Axis(tickCount=6)),
            color=series("order", names, [BLUE, VERMILLION, GREEN], "batches"),
            shape=shapes("order", names, "batches"),
            stroke=ringed(),
            tooltip=tips(name_n="layer", order_n="batches", noise_q="noise of the mean"),
        )
    )
    return Figure(
        "noise",
        f"How far off are the means of {size} texts?",
        finished(chart.add_params(chosen()), len(known)),
        [Slice(columns, words.noise([layer.name for _, layer in known], size, by, excess))],
        {"name": "layer", "order": "batches", "noise": "noise of the mean"},
        ["tid.mean"],
    )


def damage(part: PagePart, report: SwapReport) -> Figure:
    """Draw what replacing each layer alone does, with its interval."""
    known = part.numbered(report.layers)
    headless = report.baseline.loss is None
    points = np.array([_damage(layer.effect) for _, layer in known]).reshape(-1, 3).T
    write = rounded if headless else positive
    columns: dict[str, list[Value]] = {
        **part.columns([i for i, _ in known]),
        "damage": write(points[0]),
        "low": write(points[1]),
        "high": write(points[2]),
    }
    title = "1 - hidden cosine" if headless else "KL in nats, log scale"
    x = alt.X(
        "damage:Q",
        title=title,
        axis=alt.Axis(tickCount=6),
        scale=alt.Scale(zero=True) if headless else log_scale(),
    )
    base = alt.Chart(alt.NamedData(DATA)).encode(y=layer_axis())
    rules = base.mark_rule(strokeWidth=2, color=BN).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    shown = tips(name_n="layer", damage_q="damage", low_q="95% from", high_q="to")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, color=stressed(BN, BLUE), tooltip=shown
    )
    return Figure(
        "damage",
        f"What breaks when a layer is replaced by {printable(report.kind)}?",
        finished((rules + dots).add_params(chosen()), len(known)),
        [Slice(columns, words.damage(report))],
        {"name": "layer", "damage": "damage", "low": "95% from", "high": "95% to"},
        ["effect.hidden_cosine" if headless else "effect.kl", "effect.damage"],
    )


def movers(part: PagePart, comparison: Comparison) -> Figure:
    """Draw the layers that moved most between two reports, those first."""
    layers = list(comparison.layers.values())
    means = np.array([layer.bn_drift.mean for layer in layers])
    spreads = np.array([layer.bn_drift.variance for layer in layers])
    shown = layers[:MOST_MOVERS]
    places = [part.layers.index(layer.name) for layer in shown]
    names = ["mean", "sd"]
    columns: dict[str, list[Value]] = {
        **part.columns(places * 2),
        "what": [what for what in names for _ in shown],
        "moved": rounded([*means[: len(shown)], *spreads[: len(shown)]]),
        "agreement": rounded([layer.agreement_change for layer in shown] * 2),
    }
    chart = (
        alt.Chart(alt.NamedData(DATA))
        .mark_point(filled=True, size=70, strokeWidth=2, opacity=1)
        .encode(
            y=layer_axis(),
            x=alt.X("moved:Q", title="moved by, in A's sd", scale=alt.Scale(zero=True)),
            color=series("what", names, [BN, LN], "BN's"),
            shape=shapes("what", names, "BN's"),
            stroke=ringed(),
            tooltip=tips(name_n="layer", what_n="BN's", moved_q="moved by", agreement_q="agreement change"),
        )
    )
    few = f", the {len(shown)} that moved most" if len(shown) < len(layers) else ""
    return Figure(
        "movers",
        f"How far did BN's statistics move{few}?",
        finished(chart.add_params(chosen()), len(shown)),
        [Slice(columns, words.movers([layer.name for layer in layers], means, spreads))],
        {"name": "layer", "what": "BN's", "moved": "moved by", "agreement": "agreement change"},
        ["bn_drift.mean", "bn_drift.variance"],
    )


def _agreement(layer: LayerReport) -> float:
    return (layer.agreement or {}).get("feature", math.nan)


def _explained(layer: LayerReport, by: str) -> float:
    effect = getattr(layer.explained, by, None)
    return math.nan if effect is None else float(effect.epsilon2)


def _noise(layer: LayerNoise, size: int, order: str) -> float | None:
    row = layer.at(size, order)
    return row.tid.mean.mean if row else None


def _excess(layer: LayerNoise, size: int, order: str) -> float | None:
    row = layer.at(size, order)
    return row.excess_noise if row else None


def _damage(effect: Effect) -> Floats:
    """The damage of a replacement and the ends of its interval, (3,)."""
    if effect.kl is not None:
        return np.array([effect.kl.mean, effect.kl.low, effect.kl.high])
    cosine = effect.hidden_cosine
    return 1 - np.array([cosine.mean, cosine.high, cosine.low])
