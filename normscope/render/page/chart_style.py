"""The shared style of charts: one colour a role, axes of layers, log axes, the chosen layer, tooltips."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from normscope.render.page.figure import DATA, Value

# One colour a role. Those of LN, BN and position are by Okabe & Ito: the colour-blind can tell them apart.
LN, BN = "#0072B2", "#D55E00"
BN_SHADES = (BN, "#B8860B", "#A0522D")  # several numbers of BN in one chart
FACTORS = ("#009E73", "#B5568C", "#8C8C8C")  # what explains variance: position, text, word
INK = "currentColor"
WIDTH = 760  # pixels of a picture; on the page a chart fills the width of its place
# So many layers are rows with a name each. More are columns, or thin rows of a heat map.
FEW_LAYERS = 40
_COLUMN_HEIGHT = 220
_DASHES = ([1, 0], [6, 4], [2, 3])
_STROKE = {"symbolType": "stroke", "symbolSize": 500}

# The name of the line of medians among those of layers.
MEDIAN = "median of the layers"

# The parameter that holds the chosen layer's number, -1 for none.
CHOSEN = "chosen"
_IS_CHOSEN = f"datum.layer == {CHOSEN}"

# Vega leaves most ticks of a log axis without a label. These label 1, 2 and 5, or all within one decade.
_LEADING = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
_NUMBER = "format(datum.value, datum.value < 0.001 ? '~e' : '~g')"
_LOG_LABEL = f"{{0}}[1] > 10 * {{0}}[0] && indexof([1, 2, 5], {{1}}) < 0 ? '' : {_NUMBER}"


def chart() -> Any:
    """Return an empty chart of a figure's rows of data."""
    return alt.Chart(alt.NamedData(DATA))


def specification(chart: Any, height: int) -> dict[str, Any]:
    """Return a chart's specification, `height` pixels high and as wide as its place."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    spec: dict[str, Any] = chart.properties(width="container", height=height, autosize=fit).to_dict()
    spec.pop("$schema", None)
    spec.pop("config", None)
    return spec


def course_lines(x: alt.X, y: alt.Y, tooltip: list[Any]) -> dict[str, Any]:
    """Return the specification of a faint line for each layer, by the field `line`, and a strong median."""
    is_median = alt.datum.line == MEDIAN
    lines = chart().mark_line(point=True).encode(
        x=x,
        y=y,
        detail="line:N",
        color=alt.condition(is_median, alt.value(BN), alt.value(FACTORS[-1])),
        opacity=alt.condition(is_median, alt.value(1), alt.value(0.35)),
        tooltip=tooltip,
    )  # fmt: skip
    return specification(lines, _COLUMN_HEIGHT)


def layer_rows() -> alt.Y:
    """Return the axis with one row for each layer, in the order of the data."""
    return alt.Y(
        "label:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False, labelSeparation=4)
    )


def layer_axes(value: str, layers: int, *, end: str | None = None, **options: Any) -> dict[str, Any]:
    """Return the axes of layers and of a value, which may reach to an `end`; many layers are columns."""
    if layers <= FEW_LAYERS:
        return {"y": layer_rows(), "x": alt.X(value, **options), **({"x2": end} if end else {})}
    axis = alt.Axis(ticks=False, labelAngle=0, labelAlign="left", labelBound=True, labelSeparation=14)
    columns = alt.X("label:N", sort=None, title=None, axis=axis)
    return {"x": columns, "y": alt.Y(value, **options), **({"y2": end} if end else {})}


def layer_specification(chart: Any, layers: int, many: int = _COLUMN_HEIGHT) -> dict[str, Any]:
    """Return the specification of a chart of `layers`, one of them chosen; `many` is its height for many."""
    height = layers * 18 if layers <= FEW_LAYERS else many
    return specification(chart.add_params(alt.param(name=CHOSEN, value=-1)), height)


def layer_points(
    axes: Mapping[str, Any], series: Mapping[str, Any], tooltip: list[alt.Tooltip], layers: int
) -> dict[str, Any]:
    """Return the specification of a chart with a point for each layer and series."""
    size = 70 if layers <= FEW_LAYERS else 24
    points = chart().mark_point(filled=True, size=size, strokeWidth=2, opacity=1)
    return layer_specification(points.encode(stroke=chosen_ring(), tooltip=tooltip, **axes, **series), layers)


def chosen_ring() -> Any:
    """Return the stroke of marks: a ring around the chosen layer, since colour says the role."""
    return alt.condition(_IS_CHOSEN, alt.value(INK), alt.value("transparent"))


def series(
    field: str, names: Sequence[str], colours: Sequence[str], title: str | None = None, **legend: Any
) -> dict[str, Any]:
    """Return a colour and a shape for each of a few named series: colour alone must not tell them apart.

    `legend` has more options of its legend.
    """
    return {
        "color": _channel(alt.Color, field, names, title, colours, **legend),
        "shape": _channel(alt.Shape, field, names, title, ("circle", "square", "triangle-up"), **legend),
    }


def line_series(field: str, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """Return the colour and dashes of the line of each of a few named series; the first one is wider."""
    others = alt.FieldOneOfPredicate(field=field, oneOf=list(names[1:]))
    return {
        "color": _channel(alt.Color, field, names, None, colours, **_STROKE),
        "strokeDash": _channel(alt.StrokeDash, field, names, None, _DASHES, **_STROKE),
        "strokeWidth": alt.condition(others, alt.value(1.5), alt.value(4)),
    }


def _channel(
    kind: Any, field: str, names: Sequence[str], title: str | None, marks: Sequence[Any], **options: Any
) -> Any:
    scale = alt.Scale(domain=list(names), range=list(marks[: len(names)]))
    return kind(f"{field}:N", scale=scale, title=title, legend=alt.Legend(orient="top", **options))


def log_axis(axis: str, title: str) -> dict[str, Any]:
    """Return the options of a log axis, "x" or "y", that ends near the data and has labels there."""
    label = _LOG_LABEL.format(f"domain('{axis}')", _LEADING)
    return {
        "title": f"{title} (log)",
        "scale": alt.Scale(type="log", nice=False, padding=12),
        "axis": alt.Axis(labelExpr=label),
    }


def log_legend(
    title: str, values: Iterable[Value], *, clamp: bool = False, field: str = "value"
) -> alt.Color:
    """Return the colour of a field on a log scale over positive `values`, with a legend in round numbers."""
    positive = [float(value) for value in values if isinstance(value, float | int) and value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    low, high = _rounded(low, math.floor), _rounded(high, math.ceil)
    low, high = (low, high) if low < high else (low / 2, low * 2)
    legend = alt.Legend(
        orient="top", gradientLength=200, titleLimit=280, labelExpr=_NUMBER, values=log_ticks(low, high)
    )
    scale = alt.Scale(type="log", scheme="viridis", domain=[low, high], clamp=clamp)
    return alt.Color(f"{field}:Q", title=f"{title} (log)", scale=scale, legend=legend)


def log_ticks(low: float, high: float, maximum: int = 5) -> list[float]:
    """Return at most `maximum` round numbers between two positive ones, or else the two themselves."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1, 2, 5), (1,)):
        ticks = [float(f"{lead}e{power}") for power in powers for lead in leads]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= maximum:
            break
    return [low, high] if len(ticks) < 2 else ticks[:: math.ceil(len(ticks) / maximum)]


def _rounded(value: float, direction: Callable[[float], int]) -> float:
    """Return a positive number rounded down or up to two digits."""
    exponent = math.floor(math.log10(value)) - 1
    return float(f"{direction(round(value / 10.0**exponent, 9))}e{exponent}")


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
