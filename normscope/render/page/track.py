"""The windows of a training as a page: HTML with curves over steps that loads nothing."""

import altair as alt

from normscope.escaping import printable
from normscope.render.html_markup import Markup, tag
from normscope.render.notebook import render_html
from normscope.render.page.chart_style import MEDIAN, course_lines
from normscope.render.page.figure import Figure, Slice, Value, rounded
from normscope.render.page.vega import svg
from normscope.render.track import CURVES, facts, medians
from normscope.results.track import Track


def track_page(track: Track) -> str:
    """Return the page of a track: its table, and one chart for each number over steps."""
    figures = [_figure(track, name) for name in CURVES]
    drawn = [tag("div", Markup(svg(figure, 0, ", ".join(facts(track)[1:])))) for figure in figures if figure]
    head = tag("head", tag("meta", charset="utf-8"), tag("title", facts(track)[0]))
    body = tag("body", Markup(render_html(track)), *drawn, style="font-family: system-ui; margin: 2em")
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _figure(track: Track, name: str) -> Figure | None:
    """Return the chart of one number: a faint line a layer, a strong one for their median."""
    read, steps = CURVES[name], track.steps.tolist()
    courses = {layer.name: read(layer.over_steps) for layer in track.layers.values()}
    courses[MEDIAN] = medians(list(courses.values()))
    columns: dict[str, list[Value]] = {
        "step": [step for _ in courses for step in steps],
        "line": [printable(layer) for layer in courses for _ in steps],
        "value": [value for course in courses.values() for value in rounded(course)],
    }
    if not any(value is not None for value in columns["value"]):
        return None
    says = f"{name} of {len(track.layers)} layers at {len(steps)} steps."
    axes = alt.X("step:Q", title="step"), alt.Y("value:Q", title=name)
    lines = course_lines(*axes, ["line:N", "step:Q", "value:Q"])
    return Figure(name, f"{name}, over steps", lines, [Slice(columns, says)], {}, [])
