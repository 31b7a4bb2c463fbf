"""Chart of the residual stream along the blocks, at the norms that read it."""

from typing import Any

import altair as alt

from normscope.escaping import printable
from normscope.render.depth import agreement
from normscope.render.page import captions
from normscope.render.page.chart_style import (
    FEW_LAYERS,
    chart,
    chosen_ring,
    layer_axes,
    layer_specification,
    log_axis,
    tooltips,
)
from normscope.render.page.figure import Figure, Slice, Value, positive, rounded
from normscope.render.page.parts import PagePart
from normscope.results.depth import DepthPoint
from normscope.results.inspect import Report

_LINE = "#8C8C8C"
_NUMBERS = ("rms", "agreement", "growth", "mean_share", "kurtosis")


def depth(part: PagePart, report: Report) -> Figure | None:
    """Draw the size of the residual stream, coloured by agreement with BN; None where no norm reads it."""
    numbers = {name: number for number, name in enumerate(part.layers)}
    profiles = [profile for profile in report.depth or () if profile.points]
    points = [(p.name, point) for p in profiles for point in p.points if point.name in numbers]
    if not points:
        return None
    columns: dict[str, list[Value]] = {
        **part.columns([numbers[point.name] for _, point in points]),
        **_columns([point for _, point in points]),
        "stack": [printable(stack) for stack, _ in points],
    }
    heads = {
        "name": "layer",
        "stack": "stack of blocks",
        "block": "block",
        "rms": "rms of the stream",
        "agreement": "agreement with BN",
        "growth": "growth in a block",
        "mean_share": "mean share",
        "kurtosis": "kurtosis of features",
    }
    return Figure(
        "depth",
        "How large is the residual stream along the blocks?",
        _specification(len(points), heads, several=len(profiles) > 1),
        [Slice(columns, captions.depth(profiles))],
        heads,
        ["residual.rms", "residual.growth", "mean_share", "kurtosis", "agreement.feature"],
        ["Each point is a norm that reads the stream. Nothing is judged by its size."],
    )


def _columns(points: list[DepthPoint]) -> dict[str, list[Value]]:
    return {
        "block": [point.block for point in points],
        "rms": positive(point.residual.rms for point in points),
        "agreement": rounded(map(agreement, points)),
        "growth": rounded(point.residual.growth for point in points),
        "mean_share": rounded(point.mean_share for point in points),
        "kurtosis": rounded(point.kurtosis for point in points),
    }


def _specification(count: int, heads: dict[str, str], *, several: bool) -> dict[str, Any]:
    """Return a line for each stack through its points in the model's order."""
    log = log_axis("x" if count <= FEW_LAYERS else "y", "rms of the stream")
    base = chart().encode(**layer_axes("rms:Q", count, **log))
    # Without an order of its own a line would follow the alphabet.
    lines = base.mark_line(color=_LINE, strokeWidth=1.5).encode(detail="stack:N", order=alt.OrderValue(0))
    size = 90 if count <= FEW_LAYERS else 30
    shapes = alt.Legend(orient="bottom", columns=2) if several else None
    points = base.mark_point(filled=True, size=size, opacity=1, strokeWidth=2).encode(
        color=alt.Color(
            "agreement:Q",
            title="agreement with BN",
            scale=alt.Scale(scheme="viridis"),
            legend=alt.Legend(orient="top", gradientLength=200, tickCount=4, format="~g"),
        ),
        shape=alt.Shape("stack:N", sort=None, title=None, legend=shapes),
        stroke=chosen_ring(),
        tooltip=tooltips(heads, *_NUMBERS),
    )
    return layer_specification(lines + points, count)
