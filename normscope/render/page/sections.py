"""A part of a page as HTML: findings in words, then charts with captions and tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from normscope.escaping import printable
from normscope.render.compare import sides
from normscope.render.html_markup import Markup, join, tag
from normscope.render.numbers import with_interval
from normscope.render.page import captions, charts_all_layers, charts_heatmaps, charts_one_layer
from normscope.render.page.figure import Figure, Slice, table
from normscope.render.page.parts import COMMANDS, PagePart
from normscope.render.provenance import provenance_facts
from normscope.render.summary import headline, workload
from normscope.results.compare import Comparison
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.reading import Saved
from normscope.results.why import Finding, WhyReport

# Every chart in the page's order: its name, the command whose result it shows, the function that draws it.
CHARTS: tuple[tuple[str, str, Callable[[PagePart, Any], Figure | None]], ...] = (
    ("agreement", "inspect", charts_all_layers.agreement),
    ("explained", "inspect", charts_all_layers.explained),
    ("noise", "batches", charts_all_layers.noise),
    ("damage", "swap", charts_all_layers.damage),
    ("positions", "inspect", charts_heatmaps.positions),
    ("features", "inspect", charts_heatmaps.features),
    ("scatter", "inspect", charts_one_layer.scatter),
    ("profile", "inspect", charts_one_layer.profile),
    ("sizes", "batches", charts_one_layer.sizes),
    ("outliers", "inspect", charts_heatmaps.outliers),
    ("movers", "compare", charts_all_layers.movers),
)

_SEPARATOR = " · "
# Headings, and the charts below each.
_OVERVIEW = ("Layer by layer", ("agreement", "explained", "noise", "damage", "movers"))
_CLAIMS = "Which of the article's claims hold?"
_WIDE = ("Position by position, feature by feature", ("positions", "features", "outliers"))


def figures(part: PagePart) -> list[Figure]:
    """Draw every chart that a part's results have numbers for."""
    results = [(draw, getattr(part, command)) for _, command, draw in CHARTS]
    drawn = [draw(part, result) for draw, result in results if result is not None]
    return [figure for figure in drawn if figure is not None]


def section(id: str, title: str, part: PagePart, charts: Sequence[Figure]) -> Markup:
    """Return the section of one part: its findings in words, its charts, and the runs behind the numbers."""
    by_name = {figure.name: figure for figure in charts}
    sections = [_in_short(id, part, charts)]
    for (heading, names), kind in ((_OVERVIEW, "overview"), (_WIDE, "overview wide")):
        shown = [_figure(id, by_name[name], 0) for name in names if name in by_name]
        sections += [tag("h3", heading), tag("div", *shown, class_=f"figures {kind}")] if shown else []
    sections += _one_layer(id, part, [figure for figure in charts if figure.per_layer])
    sections += _claims(id, part.why) if part.why else []
    sections += _measured(part)
    head = tag("h2", title, id=f"{id}-title"), tag("p", _facts(part), class_="facts")
    return tag("section", *head, *sections, id=id, aria_labelledby=f"{id}-title")


def _facts(part: PagePart) -> str:
    """Return the facts about the model, and about what was fed to it."""
    result: Any = part.files[0][1] if part.compare is None else part.compare.reports[0]
    left_out = [part.left_out] if part.left_out else []
    return _SEPARATOR.join([*headline(result)[1:], *workload(result)[:2], *left_out])


def _in_short(id: str, part: PagePart, charts: Sequence[Figure]) -> Markup:
    """Return a list of the charts' titles, each a link to its chart, with their captions."""
    findings = [
        tag("li", tag("a", figure.title, href=f"#{id}-{figure.name}"), " ", figure.slices[0].says)
        for figure in charts
        if not figure.per_layer and figure.slices[0]
    ]
    if part.why:
        findings.append(tag("li", tag("a", _CLAIMS, href=f"#{id}-claims"), " ", captions.claims(part.why)))
    listed = tag("ul", *findings, class_="short") if findings else tag("p", "There are no numbers to show.")
    return join(tag("h3", "In short"), listed)


def _one_layer(id: str, part: PagePart, charts: Sequence[Figure]) -> list[Markup]:
    if not charts:
        return []
    layer = part.start
    options = [
        tag("option", name, value=str(number), selected=number == layer)
        for number, name in enumerate(part.layers)
    ]
    choice = tag(
        "div",
        tag("label", "Layer", for_=f"{id}-layer"),
        tag("select", *options, id=f"{id}-layer"),
        tag("span", f"Shown: {printable(part.layers[layer])}", id=f"{id}-status", role="status"),
        class_="choice",
    )
    hint = tag("p", "Choose one here, or click a layer in a chart above.", class_="about hint")
    drawn = tag("div", *(_figure(id, figure, layer) for figure in charts), class_="figures")
    return [tag("h3", "One layer"), hint, choice, drawn]


def _figure(id: str, figure: Figure, layer: int) -> Markup:
    """Return a chart's place with its caption, the glossary's definitions, and its table."""
    part = figure.slice(layer)
    says = part.says if part else "This layer has no such numbers."
    entries = [ENTRIES[name] for name in figure.metrics]
    heading = f"{id}-{figure.name}-title"
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("h4", figure.title, id=heading),
            tag("p", entries[0].definition, " ", entries[0].reading, class_="about"),
            tag("p", says, class_="says") if figure.per_layer else None,
        ),
        tag("div", class_="chart", role="img", aria_label=f"{figure.title} {says}"),
        *(tag("p", note, class_="notes") for note in figure.notes),
        _defined(entries),
        _table(figure, part or Slice({key: [] for key in figure.heads}, "")),
        id=f"{id}-{figure.name}",
        aria_labelledby=heading,
    )


def _defined(entries: Sequence[Any]) -> Markup:
    facts = [
        join(tag("dt", entry.title), *(tag("dd", text) for text in (entry.definition, entry.reading)),
             tag("dd", tag("code", entry.formula)), tag("dd", f"Source: {entry.source}"))
        for entry in entries
    ]  # fmt: skip
    return tag("details", tag("summary", "What this is: formula and source"), tag("dl", *facts))


def _table(figure: Figure, part: Slice) -> Markup:
    heads, body = table(figure, part)
    lines = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in body
    ]
    what = tag("caption", figure.title)
    head = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    inside = tag("table", what, head, tag("tbody", *lines))
    region = tag(
        "div", inside, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {figure.title}"
    )
    return tag("details", tag("summary", "The numbers as a table"), region)


def _claims(id: str, report: WhyReport) -> list[Markup]:
    """Return the article's claims with this model's evidence."""
    listed = tag("ol", *(tag("li", _claim(finding)) for finding in report.claims), class_="claims")
    about = (
        "Why NLP uses LayerNorm and not BatchNorm, claim by claim. Numbers have 95% intervals; the number "
        "that decides is bold."
    )
    return [tag("h3", _CLAIMS, id=f"{id}-claims"), tag("p", about, class_="about"), listed]


def _claim(finding: Finding) -> Markup:
    lines = [
        tag(
            "li",
            f"{with_interval(e.number.value, e.number.low, e.number.high)}: {e.name}",
            class_="decides" if e.name == finding.decided_by else None,
        )
        for e in finding.evidence
    ]
    verdict = tag("span", finding.verdict, class_="verdict")
    return tag(
        "div",
        tag("h4", f"{finding.id} ", verdict, f": {finding.claim}"),
        tag("ul", *lines),
        tag("p", f"Rule: {finding.rule}.", class_="about"),
        tag("p", "More: ", tag("code", finding.more), class_="about"),
        class_=f"claim {finding.verdict}" if finding.verdict in ("holds", "fails") else "claim",
    )


def _measured(part: PagePart) -> list[Markup]:
    """Return the runs that the numbers are from, and their warnings."""
    lines = [tag("li", *_source(file, result)) for file, result in part.files]
    warnings = dict.fromkeys(text for _, result in part.files for text in result.warnings)
    warned = [tag("p", "Warnings of the runs:"), tag("ul", *(tag("li", text) for text in warnings))]
    return [tag("h3", "What was measured"), tag("ul", *lines), *(warned if warnings else [])]


def _source(file: str, result: Saved) -> Iterator[str]:
    yield tag("strong", f"normscope {COMMANDS[type(result)]}")
    yield f" ({file}): " if file else ": "
    if isinstance(result, Comparison):
        yield "; ".join(map(_SEPARATOR.join, sides(result)))
    else:
        yield _SEPARATOR.join([*headline(result), *workload(result)])
    if result.provenance is not None:
        yield tag("br")
        yield f"From: {_SEPARATOR.join(provenance_facts(result.provenance))}"
