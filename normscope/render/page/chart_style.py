"""Shared style of the charts: colours, the axis of layers, and the chosen layer."""

from collections.abc import Sequence
from typing import Any

import altair as alt

# Okabe & Ito's blue, vermillion and green: told apart by the colour-blind, and seen on white and on black.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
LN, BN = BLUE, VERMILLION
WIDTH = 760  # of a picture; on the page a chart is as wide as its place
_FEW_LAYERS = 40

# The parameter that holds the chosen layer's number, -1 for none.
CHOSEN = "chosen"


def layer_axis() -> alt.Y:
    """Return the axis of layers, in the order of the data."""
    return alt.Y(
        "label:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelLimit=170, labelPadding=5, ticks=False, domain=False),
    )


def finished(chart: Any, layers: int | None = None, height: int = 0) -> dict[str, Any]:
    """Return a chart's specification: a row for each of `layers`, or else so high in pixels."""
    if layers is not None:
        height = layers * (18 if layers <= _FEW_LAYERS else 12)
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=fit).to_dict()
    spec.pop("$schema", None)
    spec.pop("config", None)
    return spec


def chosen() -> alt.Parameter:
    """Return the parameter that marks use to stress the chosen layer."""
    return alt.param(name=CHOSEN, value=-1)


def stressed(plain: str, stress: str) -> Any:
    """Return a colour for marks: `stress` where the layer is the chosen one."""
    return alt.condition(f"datum.layer == {CHOSEN}", alt.value(stress), alt.value(plain))


def ringed() -> Any:
    """Return a stroke for marks whose colour says something else: a ring around those of the chosen layer."""
    return alt.condition(f"datum.layer == {CHOSEN}", alt.value("currentColor"), alt.value("transparent"))


def series(field: str, names: Sequence[str], colours: Sequence[str], title: str | None = None) -> alt.Color:
    """Return colours for a few named series, with a legend above the chart."""
    scale = alt.Scale(domain=list(names), range=list(colours[: len(names)]))
    return alt.Color(f"{field}:N", scale=scale, title=title, legend=_legend(names))


def shapes(field: str, names: Sequence[str], title: str | None = None) -> alt.Shape:
    """Return shapes for the same series, so that colour is not all that tells them apart."""
    scale = alt.Scale(domain=list(names), range=["circle", "square", "triangle-up"][: len(names)])
    return alt.Shape(f"{field}:N", scale=scale, title=title, legend=_legend(names))


def dashes(field: str, names: Sequence[str], title: str | None = None) -> alt.StrokeDash:
    """Return dashes for the lines of the same series."""
    scale = alt.Scale(domain=list(names), range=[[1, 0], [6, 4], [2, 3]][: len(names)])
    return alt.StrokeDash(f"{field}:N", scale=scale, title=title, legend=_legend(names))


def log_scale(**options: Any) -> alt.Scale:
    """Return a log scale that ends near the data, not at the next power of ten."""
    return alt.Scale(type="log", nice=False, padding=12, **options)


def _legend(names: Sequence[str]) -> alt.Legend:
    # Three names in a row are wider than a telephone.
    return alt.Legend(orient="top", columns=2 if len(names) > 2 else len(names))


def tips(**titles: str) -> list[alt.Tooltip]:
    """Return tooltips: field and type (`value_q`) to a title; numbers with three significant digits."""
    shown = []
    for key, title in titles.items():
        name, _, kind = key.rpartition("_")
        numeric = {"q": alt.Tooltip(f"{name}:Q", title=title, format=".3~g")}
        share = {"p": alt.Tooltip(f"{name}:Q", title=title, format=".1%")}
        shown.append({**numeric, **share}.get(kind) or alt.Tooltip(f"{name}:N", title=title))
    return shown
