"""The shared style of charts: colours, rows of layers, the chosen layer, tooltips."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from normscope.render.page.figure import DATA

# The blue, vermillion and green of Okabe & Ito: the colour-blind can tell them apart, on white and on black.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
BN = VERMILLION
WIDTH = 760  # pixels of a picture; on the page a chart fills the width of its place
_FEW_LAYERS = 40

# The parameter that holds the chosen layer's number, -1 for none.
CHOSEN = "chosen"
_IS_CHOSEN = f"datum.layer == {CHOSEN}"


def chart() -> Any:
    """Return an empty chart of a figure's rows of data."""
    return alt.Chart(alt.NamedData(DATA))


def layer_chart() -> Any:
    """Return an empty chart with one row for each layer, in the order of the data."""
    axis = alt.Axis(labelLimit=170, labelPadding=5, ticks=False, domain=False)
    return chart().encode(y=alt.Y("label:N", sort=None, title=None, axis=axis))


def specification(chart: Any, height: int) -> dict[str, Any]:
    """Return a chart's specification, `height` pixels high and as wide as its place."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=fit).to_dict()
    spec.pop("$schema", None)
    spec.pop("config", None)
    return spec


def layer_specification(chart: Any, layers: int) -> dict[str, Any]:
    """Return the specification of a chart with one row for each of `layers`, one of them chosen."""
    height = layers * (18 if layers <= _FEW_LAYERS else 12)
    return specification(chart.add_params(alt.param(name=CHOSEN, value=-1)), height)


def layer_points(
    x: alt.X, series: Mapping[str, Any], tooltip: list[alt.Tooltip], layers: int
) -> dict[str, Any]:
    """Return the specification of a chart with a point for each layer and series."""
    points = layer_chart().mark_point(filled=True, size=70, strokeWidth=2, opacity=1)
    # Colour says which series it is, so a ring marks the chosen layer.
    ring = alt.condition(_IS_CHOSEN, alt.value("currentColor"), alt.value("transparent"))
    return layer_specification(points.encode(x=x, stroke=ring, tooltip=tooltip, **series), layers)


def chosen_colour() -> Any:
    """Return the colour of marks: blue where the layer is the chosen one, that of BN elsewhere."""
    return alt.condition(_IS_CHOSEN, alt.value(BLUE), alt.value(BN))


def series(
    field: str,
    names: Sequence[str],
    title: str | None = None,
    colours: Sequence[str] = (BLUE, VERMILLION, GREEN),
) -> dict[str, Any]:
    """Return a colour and a shape for each of a few named series: colour alone must not tell them apart."""
    return {
        "color": _channel(alt.Color, field, names, title, colours),
        "shape": _channel(alt.Shape, field, names, title, ("circle", "square", "triangle-up")),
    }


def dashes(field: str, names: Sequence[str]) -> Any:
    """Return a pattern of dashes for the line of each of a few named series."""
    return _channel(alt.StrokeDash, field, names, None, ([1, 0], [6, 4], [2, 3]))


def _channel(kind: Any, field: str, names: Sequence[str], title: str | None, values: Sequence[Any]) -> Any:
    scale = alt.Scale(domain=list(names), range=list(values[: len(names)]))
    # Three names in a row are wider than a phone.
    legend = alt.Legend(orient="top", columns=2 if len(names) > 2 else len(names))
    return kind(f"{field}:N", scale=scale, title=title, legend=legend)


def log_scale() -> alt.Scale:
    """Return a log scale that ends near the data, not at the next power of ten."""
    return alt.Scale(type="log", nice=False, padding=12)


def tooltips(titles: Mapping[str, str], *numbers: str) -> list[alt.Tooltip]:
    """Return a tooltip with a title for each field.

    Those that are `numbers` get three significant digits, and a `share` is a percentage.
    """
    formats = {name: ".1%" if name == "share" else ".3~g" for name in numbers}
    return [
        alt.Tooltip(f"{name}:Q", title=title, format=formats[name])
        if name in formats
        else alt.Tooltip(f"{name}:N", title=title)
        for name, title in titles.items()
    ]
