"""Every chart by its name: the result it needs and the function that draws it."""

from collections.abc import Callable
from typing import Any

from normscope.render.page import charts_all_layers as overview
from normscope.render.page import charts_heatmaps as maps
from normscope.render.page import charts_one_layer as one_layer
from normscope.render.page.figure import Figure
from normscope.render.page.parts import PagePart

# A chart's name, the result that it is drawn from, and what draws it, in the page's order.
CHARTS: tuple[tuple[str, str, Callable[[PagePart, Any], Figure | None]], ...] = (
    ("agreement", "inspect", overview.agreement),
    ("explained", "inspect", overview.explained),
    ("noise", "batches", overview.noise),
    ("damage", "swap", overview.damage),
    ("positions", "inspect", maps.positions),
    ("features", "inspect", maps.features),
    ("scatter", "inspect", one_layer.scatter),
    ("profile", "inspect", one_layer.profile),
    ("sizes", "batches", one_layer.sizes),
    ("outliers", "inspect", maps.outliers),
    ("movers", "comparison", overview.movers),
)


def figures(part: PagePart) -> list[Figure]:
    """Draw every chart that a part's results have numbers for."""
    drawn = [draw(part, result) for _, role, draw in CHARTS if (result := getattr(part, role)) is not None]
    return [figure for figure in drawn if figure is not None]
