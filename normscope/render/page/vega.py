"""Draws specifications with Vega: the script of the page, and pictures as SVG or PNG."""

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

_SCALE = 2  # pixels of a PNG for one of the chart


def _theme(ink: str, muted: str, faint: str, *, background: str | None = None) -> dict[str, Any]:
    """Return Vega-Lite's configuration in colours for text, for lesser text and for lines."""
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
            "labelOverlap": "greedy",
        },
        "legend": {
            "labelColor": ink,
            "titleColor": ink,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolOpacity": 1,
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
    """Return Vega, Vega-Lite and Vega-Embed as one script that loads nothing."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _version())).replace("\r", "")


def svg(figure: Figure, layer: int, about: str) -> str:
    """Return a chart as SVG, with what it is about under its title."""
    return _drawn("svg", _whole(figure, layer, about)).decode()


def png(figure: Figure, layer: int, about: str) -> bytes:
    """Return the same as PNG."""
    return _drawn("png", _whole(figure, layer, about))


def _drawn(kind: str, spec: dict[str, Any]) -> bytes:
    """Have a process of its own draw: where memory does not suffice, the renderer aborts it."""
    command = [sys.executable, renderer.__file__, kind, _version(), str(_SCALE)]
    given = json.dumps({"spec": spec, "config": ON_PAPER}).encode()
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode == 0:
        return done.stdout
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    why = printable(said[-1].strip()[:200]) if said and done.returncode > 0 else f"signal {-done.returncode}"
    raise ReportError(
        f"the renderer failed ({why}); expected a chart that it can draw; give a result with fewer layers, "
        "or make the page"
    )


def _whole(figure: Figure, layer: int, about: str) -> dict[str, Any]:
    """Return a chart's specification for a picture: as wide as one, with its data and its title."""
    return {**figure.drawable(layer, about), "width": WIDTH, "padding": 16}


def _version() -> str:
    """The Vega-Lite that Altair writes for."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
