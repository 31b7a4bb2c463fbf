"""The page as HTML: a head with a policy that loads nothing, the parts, and their data."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from normscope._version import __version__
from normscope.escaping import printable
from normscope.render.html_markup import Markup, embedded, join, tag
from normscope.render.page.chart_style import CHOSEN
from normscope.render.page.figure import DATA, Figure, Slice
from normscope.render.page.parts import PagePart, headings
from normscope.render.page.sections import figures, section
from normscope.render.page.vega import ON_PAGE, script
from normscope.results.glossary.entry import NOTATION


def html(parts: Sequence[PagePart]) -> str:
    """Return the page of parts."""
    titles = headings(parts)
    charts = [figures(part) for part in parts]
    ids = [f"part-{number}" for number in range(1, len(parts) + 1)]
    body = [section(*arguments) for arguments in zip(ids, titles, parts, charts, strict=True)]
    data = {
        "data": DATA,
        "chosen": CHOSEN,
        "config": ON_PAGE,
        "parts": [_data(*arguments) for arguments in zip(ids, parts, charts, strict=True)],
    }
    models = dict.fromkeys(printable(part.model.id) for part in parts)
    title = f"{', '.join(models)}: BN and LN compared"
    return _document(title, _navigation(ids, titles), join(*body), embedded(data))


def _document(title: str, navigation: Markup | None, body: Markup, data: str) -> str:
    scripts = [script(), _resource("page.js")]
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(map(_hashed, scripts))}"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(_resource("page.css"))),
    )
    content = tag(
        "body",
        tag("a", "Skip to the findings", class_="skip", href="#findings"),
        tag("header", tag("h1", _HEADING), tag("p", _INTRODUCTION, class_="about"), _WITHOUT_SCRIPTS),
        navigation,
        tag("main", body, id="findings", tabindex="-1"),
        tag("footer", tag("p", f"Notation. {NOTATION}"), tag("p", _FOOTER)),
        tag("script", Markup(data), id="data", type="application/json"),
        *(tag("script", Markup(text)) for text in scripts),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, content, lang='en')}\n"


_HEADING = "BatchNorm and LayerNorm compared"
_INTRODUCTION = (
    "This page shows in which layers, positions and features the statistics that BatchNorm (BN) would use "
    "differ from those that the model's normalization layers really use (LN: LayerNorm's, or RMSNorm's)."
)


_WITHOUT_SCRIPTS = tag("noscript", tag("p", "The charts need JavaScript; their captions and tables do not."))
_FOOTER = (
    f"Made by normscope {__version__}. This file is complete: it loads nothing; you can keep or send it."
)


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return files("normscope.render.page").joinpath(name).read_text(encoding="utf-8")


def _navigation(ids: Sequence[str], titles: Sequence[str]) -> Markup | None:
    if len(ids) < 2:
        return None
    links = [tag("li", tag("a", title, href=f"#{id}")) for id, title in zip(ids, titles, strict=True)]
    return tag("nav", tag("ul", *links), aria_label="Parts of this page")


def _data(id: str, part: PagePart, charts: Sequence[Figure]) -> dict[str, Any]:
    """Return the data that the page's script draws; rows hold the layers' numbers, to look up names by."""
    return {
        "id": id,
        "start": part.start,
        "names": [printable(name) for name in part.layers],
        "labels": part.labels,
        "figures": [
            {
                "id": f"{id}-{figure.name}",
                "title": figure.title,
                "spec": figure.spec,
                "perLayer": figure.per_layer,
                "heads": figure.heads if figure.per_layer else {},
                "slices": [_slice_data(figure, part) for part in figure.slices],
            }
            for figure in charts
        ],
    }


def _slice_data(figure: Figure, part: Slice | None) -> dict[str, Any] | None:
    """Return the columns that the chart draws, and for one layer those of its table, and the caption."""
    if part is None:
        return None
    spec = json.dumps(figure.spec)
    in_table = figure.heads if figure.per_layer else ()
    looked_up = ("label", "name") if "layer" in part.columns else ()
    columns = {
        key: column
        for key, column in part.columns.items()
        if key not in looked_up and (key in in_table or key in spec or key == "layer")
    }
    return {"columns": columns, **({"says": part.says} if figure.per_layer else {})}
