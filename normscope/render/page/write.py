"""Writes saved results as a page or a picture, with the extra `report`."""

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from normscope.errors import ReportError, UsageError, install
from normscope.escaping import printable, quoted, reason
from normscope.render.page.parts import PagePart, headings, parts_of
from normscope.results.atomic_write import write_whole
from normscope.results.reading import Saved

if TYPE_CHECKING:
    from normscope.render.page.figure import Figure

Results = Iterable[Saved | str | os.PathLike[str]]


def write_page(results: Results, path: str | os.PathLike[str], *, layer: str | None = None) -> None:
    """Write saved results, or the files that they are in, as one page: HTML that loads nothing else.

    Results of one model share a part of the page; each comparison or trajectory has its own. `layer` is a
    glob for the layer that is shown first, by default the one least like BatchNorm. Needs the extra
    `report`. Raises ReportError when a file is not a result, the extra is missing or `path` cannot be
    written, UsageError without results or when `layer` does not match exactly one layer.
    """
    write_whole(path, page(results, layer))


def page(results: Results, layer: str | None = None) -> str:
    """Return the page as HTML; arguments and errors are those of `write_page`."""
    _require_extra()
    from normscope.render.page.document import html

    parts = parts_of(results)
    _choose(parts, layer)
    return html(parts)


def picture(
    results: Results, chart: str, kind: Literal["svg", "png"], layer: str | None = None
) -> str | bytes:
    """Return one chart as the text of an SVG or the bytes of a PNG.

    Raises UsageError for an unknown `chart`, and when the results have no such chart, or several.
    """
    _require_extra()
    from normscope.render.page.sections import CHARTS
    from normscope.render.page.vega import png, svg

    names = [name for name, _, _ in CHARTS]
    if chart not in names:
        raise UsageError(f"there is no chart {quoted(chart)}; expected one of {', '.join(names)}; name one")
    figure, number, about = _only(chart, parts_of(results), layer)
    return svg(figure, number, about) if kind == "svg" else png(figure, number, about)


def _only(chart: str, parts: Sequence[PagePart], layer: str | None) -> "tuple[Figure, int, str]":
    """Return the one chart of that name in all parts, the number of its layer, and its subtitle."""
    from normscope.render.page.sections import CHARTS, figures

    _choose(parts, layer)
    matches = [
        (figure, part, title)
        for part, title in zip(parts, headings(parts), strict=True)
        for figure in figures(part)
        if figure.name == chart
    ]
    if not matches:
        field = next(field for name, field, _ in CHARTS if name == chart)
        command = "inspect --revision a,b,c" if field == "trajectory" else field
        raise UsageError(
            f"nothing given has numbers for the chart {chart}; expected a result of normscope {command} that "
            "has; add its file"
        )
    if len(matches) > 1:
        several = ", ".join(title for _, _, title in matches)
        raise UsageError(
            f"{len(matches)} charts {chart} can be drawn: of {several}; expected one; give fewer files"
        )
    figure, part, title = matches[0]
    if figure.slice(part.start) is None:
        raise UsageError(f"the layer has no numbers for the chart {chart}; expected some; name another layer")
    detail = printable(part.layers[part.start]) if figure.per_layer else part.left_out
    return figure, part.start, f"{title} · {detail}" if detail else title


def _choose(parts: Sequence[PagePart], layer: str | None) -> None:
    """Set the layer that a glob matches as the one that each part shows first."""
    if layer is None:
        return
    matches = [[name for name in part.every_layer if fnmatchcase(name, layer)] for part in parts]
    several = [names for names in matches if len(names) > 1]
    if several:
        first = ", ".join(map(quoted, several[0][:2]))
        raise UsageError(
            f"{quoted(layer)} is {len(several[0])} layers: {first}, ...; expected one; write more of its name"
        )
    if not any(matches):
        names = ", ".join(quoted(name) for part in parts for name in part.every_layer[:2]) or "none"
        raise UsageError(
            f"no layer matches {quoted(layer)}; the layers are {names}, ...; give a glob on those"
        )
    for part, matching in zip(parts, matches, strict=True):
        part.wanted = matching[0] if matching else None


def _require_extra() -> None:
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise ReportError(
            f"charts cannot be drawn: {reason(error)}; expected altair and vl-convert-python; "
            f"{install('report')}"
        ) from error
