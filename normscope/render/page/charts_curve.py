"""Chart of one layer's output against its input: the density of elements."""

from collections.abc import Sequence

import altair as alt

from normscope.render.page import captions
from normscope.render.page.chart_style import chart, log_legend, specification, tooltips
from normscope.render.page.figure import Figure, Slice, Value, rounded
from normscope.render.page.parts import PagePart
from normscope.results.common import Counts, Floats
from normscope.results.curve import BINS
from normscope.results.inspect import LayerReport, Report


def curve(part: PagePart, report: Report) -> Figure | None:
    """Draw the elements of a layer by input and output; None where no layer has a curve."""
    slices = [_slice(report.layers.get(name)) for name in part.layers]
    if not any(slices):
        return None
    heads = {
        "x": "input from",
        "x2": "to",
        "y": "output from",
        "y2": "to below",
        "count": "elements",
    }
    counts = [count for each in slices if each for count in each.columns["count"]]
    scale = alt.Scale(nice=False)
    bins = (
        chart()
        .mark_rect()
        .encode(
            x=alt.X("x:Q", title="input", scale=scale, axis=alt.Axis(grid=False)),
            x2="x2:Q",
            y=alt.Y("y:Q", title="output, before scale and shift", scale=scale, axis=alt.Axis(grid=False)),
            y2="y2:Q",
            color=log_legend("elements", counts, field="count"),
            tooltip=tooltips(heads),
        )
    )
    return Figure(
        "curve",
        "Output against input, element by element",
        specification(bins, 320),
        slices,
        heads,
        ["curve", "curve.input_limit", "curve.beyond"],
        ["An element is one feature of one token. Each cell is a bin; bins without elements are empty."],
        per_layer=True,
    )


def _slice(layer: LayerReport | None) -> Slice | None:
    if layer is None or layer.curve is None:
        return None
    measured = layer.curve
    columns: dict[str, Sequence[Value]] = {
        "x": _ends(measured.input_bin, measured.input_limit),
        "x2": _ends(measured.input_bin + 1, measured.input_limit),
        "y": _ends(measured.output_bin, measured.output_limit),
        "y2": _ends(measured.output_bin + 1, measured.output_limit),
        "count": measured.count.tolist(),
    }
    return Slice(columns, captions.curve(measured))


def _ends(bins: Counts, limit: float) -> list[Value]:
    ends: Floats = (bins / (BINS // 2) - 1) * limit
    return rounded(ends, 6)
