"""Draws charts with Vega: its script for the page, and pictures as SVG or PNG."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from normscope.errors import ReportError
from normscope.escaping import printable
from normscope.render.page import renderer
from normscope.render.page.chart_style import WIDTH
from normscope.render.page.figure import Figure

_SCALE = 2  # pixels of a PNG for each pixel of the chart


def _theme(ink: str, muted: str, faint: str, *, background: str | None = None) -> dict[str, Any]:
    """Return Vega-Lite's configuration, with the colours of text, of minor text and of lines."""
    return {
        "background": background,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink,
            "titleColor": ink,
            "gridColor": faint,
            "domainColor": muted,
            "tickColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "labelFlush": False,
            "labelBound": 11,  # pixels beyond the axis, where a chart may end
            "labelOverlap": "greedy",
            "labelLimit": 190,
            "labelPadding": 5,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolOpacity": 1,
            "symbolBaseFillColor": muted,
            "symbolBaseStrokeColor": muted,
        },
        "title": {
            "color": ink,
            "subtitleColor": muted,
            "anchor": "start",
            "fontSize": 15,
            "offset": 12,
            "limit": WIDTH,
        },
        "text": {"color": ink, "fontSize": 11},
        "scale": {"zero": False},
    }


ON_PAGE = _theme("var(--ink)", "var(--muted)", "var(--line)")
ON_PAPER = _theme("#1b1b1f", "#66666e", "#dcdce0", background="white")


@cache
def script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that loads nothing else."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _version())).replace("\r", "")


def svg(figure: Figure, layer: int, about: str) -> str:
    """Return a chart as SVG, with `about` as its subtitle."""
    return _draw("svg", figure, layer, about).decode()


def png(figure: Figure, layer: int, about: str) -> bytes:
    """Return a chart as PNG, with `about` as its subtitle."""
    return _draw("png", figure, layer, about)


def _draw(kind: str, figure: Figure, layer: int, about: str) -> bytes:
    """Draw in a process of its own, since the renderer aborts its process when memory runs out."""
    command = [sys.executable, renderer.__file__, kind, _version(), str(_SCALE)]
    spec = {**figure.drawable(layer, about), "width": WIDTH, "padding": 16}
    chart = json.dumps({"spec": spec, "config": ON_PAPER}).encode()
    done = subprocess.run(command, input=chart, capture_output=True, check=False)
    if done.returncode == 0:
        return done.stdout
    messages = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    signal = f"signal {-done.returncode}"
    cause = printable(messages[-1].strip()[:200]) if messages and done.returncode > 0 else signal
    raise ReportError(
        f"the renderer failed ({cause}); expected a chart that it can draw; give a result with fewer layers, "
        "or make the page"
    )


def _version() -> str:
    """The version of Vega-Lite that Altair writes for."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
