"""Charts of several revisions of a model: one number of every layer, from revision to revision."""

import math
from collections.abc import Callable, Sequence
from itertools import chain

import altair as alt

from normscope.escaping import printable
from normscope.render.page import captions
from normscope.render.page.chart_style import MEDIAN, course_lines, log_axis
from normscope.render.page.figure import Figure, Slice, Tile, Value, positive, rounded
from normscope.render.page.parts import PagePart
from normscope.results.trajectory import LayerPoint, RevisionPoint, Trajectory

_Read = Callable[[RevisionPoint | LayerPoint], float]


def agreements(part: PagePart, trajectory: Trajectory) -> Figure:
    """Draw the agreement with BN of every layer, and their median, at each revision."""
    title, metrics = "agreement with BN", ["agreement.feature"]
    return _figure(part, trajectory, "agreements", title, metrics, lambda point: point.agreement["feature"])


def extremes(part: PagePart, trajectory: Trajectory) -> Figure:
    """Draw the largest |input| of every layer, and their median, at each revision."""
    title, metrics = "largest |input|", ["extremes.input", "extremes.headroom"]
    return _figure(
        part, trajectory, "extremes", title, metrics, lambda point: point.extremes.input.value, log=True
    )


def drifts(part: PagePart, trajectory: Trajectory) -> Figure:
    """Draw how far BN's means moved from the first revision, of every layer, and their median."""
    title, metrics = "BN mean moved by", ["bn_drift.mean", "bn_drift.variance"]
    return _figure(part, trajectory, "drifts", title, metrics, lambda point: point.bn_drift.mean)


def _figure(
    part: PagePart,
    trajectory: Trajectory,
    name: str,
    title: str,
    metrics: Sequence[str],
    read: _Read,
    *,
    log: bool = False,
) -> Figure:
    names = [printable(point.revision) for point in trajectory.points]
    by_layer = [{layer.name: read(layer) for layer in point.layers} for point in trajectory.points]
    medians = list(map(read, trajectory.points))
    lines = [[numbers.get(layer, math.nan) for numbers in by_layer] for layer in part.layers]
    values = chain.from_iterable([*lines, medians])
    columns: dict[str, list[Value]] = {
        "revision": [name for _ in range(len(lines) + 1) for name in names],
        "line": [label for label in (*part.labels, MEDIAN) for _ in names],
        "value": positive(values) if log else rounded(values),
    }
    options = log_axis("y", title) if log else {"title": title, "scale": alt.Scale(zero=False, padding=8)}
    axis = alt.Axis(labelAngle=0, labelLimit=90)
    spec = course_lines(
        alt.X("revision:N", sort=None, title="revision", axis=axis),
        alt.Y("value:Q", **options),
        ["line:N", "revision:N", alt.Tooltip("value:Q", title=title)],
    )
    return Figure(
        name,
        f"{captions.begin(title)}, revision by revision",
        spec,
        [Slice(columns, captions.course(title, names, medians))],
        {"line": "layer"},
        metrics,
        ["The strong line is the median of the layers, each of which has a faint one."],
        pivot=("line", "revision", "value"),
        tiles=[Tile(captions.begin(title), captions.median(medians[-1:]), f"median layer at {names[-1]}")],
    )
