"""Writes saved results as a page or a picture, with the extra `report`."""

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted, reason
from normscope.render.page.parts import PagePart, headings, parts_of
from normscope.results.atomic_write import write_whole
from normscope.results.reading import Saved

if TYPE_CHECKING:
    from normscope.render.page.figure import Figure

Results = Iterable[Saved | str | os.PathLike[str]]


def write_page(results: Results, path: str | os.PathLike[str], *, layer: str | None = None) -> None:
    """Write saved results, or the files that they are in, as one page: HTML that loads nothing else.

    Results of one model share a part of the page, comparisons have their own. `layer` is a glob on the
    one that is shown first, by default the one least like BatchNorm. Needs the extra `report`. Raises
    ReportError when a file is no result, the extra is missing or `path` cannot be written, UsageError
    without results or where `layer` is not one.
    """
    write_whole(path, page(results, layer))


def page(results: Results, layer: str | None = None) -> str:
    """Return the page as HTML; the rest is as for `write_page`."""
    _require_extra()
    from normscope.render.page.document import html

    parts = parts_of(results)
    return html(parts, _chosen(parts, layer))


def picture(
    results: Results, chart: str, kind: Literal["svg", "png"], layer: str | None = None
) -> str | bytes:
    """Return one chart as the text of an SVG or the bytes of a PNG.

    Raises UsageError for an unknown `chart`, and where the results have none such, or several.
    """
    _require_extra()
    from normscope.render.page.chart_registry import CHARTS
    from normscope.render.page.vega import png, svg

    names = [name for name, _, _ in CHARTS]
    if chart not in names:
        raise UsageError(f"there is no chart {quoted(chart)}; expected one of {', '.join(names)}; name one")
    figure, number, about = _only(chart, parts_of(results), layer)
    return svg(figure, number, about) if kind == "svg" else png(figure, number, about)


def _only(chart: str, parts: Sequence[PagePart], layer: str | None) -> "tuple[Figure, int, str]":
    """Return the one chart of a name that parts have, its layer's number, and what it is about."""
    from normscope.render.page.chart_registry import CHARTS, figures
    from normscope.render.page.charts_one_layer import start

    found = [
        (figure, part, start(part) if number is None else number, title)
        for part, number, title in zip(parts, _chosen(parts, layer), headings(parts), strict=True)
        for figure in figures(part)
        if figure.name == chart
    ]
    if not found:
        role = next(role for name, role, _ in CHARTS if name == chart).replace("comparison", "compare")
        raise UsageError(
            f"nothing given has numbers for the chart {chart}; expected a result of normscope {role} that "
            "has; add its file"
        )
    if len(found) > 1:
        several = ", ".join(title for _, _, _, title in found)
        raise UsageError(
            f"{len(found)} charts {chart} can be drawn: of {several}; expected one; give fewer files"
        )
    figure, part, number, about = found[0]
    about = f"{about} · {part.left_out}" if part.left_out and not figure.per_layer else about
    if figure.slice(number) is None:
        raise UsageError(f"the layer has no numbers for the chart {chart}; expected some; name another layer")
    return figure, number, f"{about} · {printable(part.layers[number])}" if figure.per_layer else about


def _chosen(parts: Sequence[PagePart], layer: str | None) -> list[int | None]:
    """Return the number of the layer that a glob names in each part, None where it names none."""
    if layer is None:
        return [None] * len(parts)
    found = [[name for name in part.every_layer if fnmatchcase(name, layer)] for part in parts]
    several = [names for names in found if len(names) > 1]
    if several:
        first = ", ".join(map(quoted, several[0][:2]))
        raise UsageError(
            f"{quoted(layer)} is {len(several[0])} layers: {first}, ...; expected one; write more of its name"
        )
    if not any(found):
        known = ", ".join(quoted(name) for part in parts for name in part.every_layer[:2]) or "none"
        raise UsageError(
            f"no layer matches {quoted(layer)}; the layers are {known}, ...; give a glob on those"
        )
    for part, names in zip(parts, found, strict=True):
        part.wanted = names[0] if names else None
    return [part.layers.index(part.wanted) if part.wanted else None for part in parts]


def _require_extra() -> None:
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ReportError(
            f"charts cannot be drawn: {reason(error)}; expected altair and vl-convert-python; "
            "run pip install 'normscope[report]'"
        ) from error
