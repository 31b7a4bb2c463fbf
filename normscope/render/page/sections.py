"""A part of a page as HTML: its main numbers, findings and claims, then charts with captions and tables."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from normscope.escaping import grouped, printable
from normscope.render.compare import sides
from normscope.render.findings import cautions, findings
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Grid, reword
from normscope.render.html_markup import Markup, escape, join, tag
from normscope.render.inspect import WIDE
from normscope.render.page import (
    captions,
    charts_all_layers,
    charts_curve,
    charts_depth,
    charts_heatmaps,
    charts_one_layer,
    charts_trajectory,
)
from normscope.render.page.chart_style import FEW_LAYERS
from normscope.render.page.claims import claims_section
from normscope.render.page.figure import Figure, Slice, Tile, table
from normscope.render.page.parts import COMMANDS, PagePart
from normscope.render.pooled import means_grid, pooled_grid
from normscope.render.provenance import provenance_facts
from normscope.render.summary import headline, workload
from normscope.render.trajectory import facts as trajectory_facts
from normscope.render.trajectory import revisions, same_weights
from normscope.results.compare import Comparison
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.reading import Saved
from normscope.results.trajectory import Trajectory

# Every chart in the page's order: its name, the command whose result it shows, the function that draws it.
CHARTS: tuple[tuple[str, str, Callable[[PagePart, Any], Figure | None]], ...] = (
    ("agreement", "inspect", charts_all_layers.agreement),
    ("explained", "inspect", charts_all_layers.explained),
    ("depth", "inspect", charts_depth.depth),
    ("noise", "batches", charts_all_layers.noise),
    ("damage", "swap", charts_all_layers.damage),
    ("positions", "inspect", charts_heatmaps.positions),
    ("features", "inspect", charts_heatmaps.features),
    ("scatter", "inspect", charts_one_layer.scatter),
    ("profile", "inspect", charts_one_layer.profile),
    ("curve", "inspect", charts_curve.curve),
    ("sizes", "batches", charts_one_layer.sizes),
    ("outliers", "inspect", charts_heatmaps.outliers),
    ("agreements", "trajectory", charts_trajectory.agreements),
    ("extremes", "trajectory", charts_trajectory.extremes),
    ("drifts", "trajectory", charts_trajectory.drifts),
    ("movers", "compare", charts_all_layers.movers),
)

_SEPARATOR = " · "
_MAX_TILES = 4
_WIDE = ("positions", "features")


def figures(part: PagePart) -> list[Figure]:
    """Draw every chart that a part's results have numbers for."""
    results = [(draw, getattr(part, command)) for _, command, draw in CHARTS]
    drawn = [draw(part, result) for draw, result in results if result is not None]
    return [figure for figure in drawn if figure is not None]


def section(id: str, title: str, part: PagePart, charts: Sequence[Figure]) -> Markup:
    """Return the section of one part: its findings in words, its charts, and the runs behind the numbers."""
    drawn = {figure.name: _figure(id, part, figure, 0) for figure in charts if not figure.per_layer}
    first = [drawn.pop(name) for name in [*drawn][:1]]
    maps = [drawn.pop(name) for name in _WIDE if name in drawn]
    kind = "figures overview" if len(part.layers) <= FEW_LAYERS else "overview"
    return tag(
        "section",
        tag("h2", title, id=f"{id}-title"),
        tag("p", _facts(part), class_="facts"),
        tag("dl", *map(_tile, _tiles(part, charts)), class_="tiles"),
        tag("div", *first, class_="overview"),
        _sentences(part),
        claims_section(part.why) if part.why else None,
        _pooled(part),
        _revisions(part),
        _group("Layer by layer", [*drawn.values()], kind),
        _group("Position by position, feature by feature", maps, "overview"),
        _one_layer(id, part, [figure for figure in charts if figure.per_layer]),
        _measured(part),
        id=id,
        aria_labelledby=f"{id}-title",
    )


def _facts(part: PagePart) -> str:
    """Return the facts about the model, and about what was fed to it."""
    left_out = [part.left_out] if part.left_out else []
    facts = headline(part.measured)[1:] + workload(part.measured)[:2]
    if part.trajectory is not None:
        facts = trajectory_facts(part.trajectory)[1:]
    return _SEPARATOR.join([*facts, *cautions(part.measured.run), *left_out])


def _tiles(part: PagePart, charts: Sequence[Figure]) -> list[Tile]:
    """Return the main numbers of the charts; where these are few, also of the claims and the run."""
    tiles = [tile for figure in charts for tile in figure.tiles]
    if part.why:
        verdicts = [finding.verdict for finding in part.why.claims]
        rest = ", ".join(
            f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts) if each != "holds"
        )
        tiles.append(
            Tile("Claims that hold", f"{verdicts.count('holds')} of {len(verdicts)}", printable(rest))
        )
    run = part.measured.run
    tiles += [Tile("Normalization layers", grouped(len(part.layers)), "measured")] if part.layers else []
    tiles += [
        Tile(captions.begin(reword("texts", run.medium)), grouped(run.texts), "fed to the model"),
        Tile("Tokens", grouped(run.tokens), "without padding"),
        Tile("Positions", grouped(run.positions), "in the longest text"),
    ]
    return tiles[:_MAX_TILES]


def _tile(tile: Tile) -> Markup:
    return tag(
        "div",
        tag("dt", tile.title),
        tag("dd", tile.number, class_="number"),
        tag("dd", tile.about, class_="about"),
    )


def _sentences(part: PagePart) -> Markup | None:
    """Return the findings of the terminal's first screen, or which weights of revisions are equal."""
    sentences = findings(part.inspect, WIDE) if part.inspect else []
    sentences += same_weights(part.trajectory) if part.trajectory else []
    if not sentences:
        return None
    return tag("ul", *(tag("li", _worded(part, each)) for each in sentences), class_="short")


def _worded(part: PagePart, sentence: str) -> Markup:
    """Return a sentence in which the full names of layers are short, with the full one as a tooltip."""
    short = {printable(name): label for name, label in zip(part.layers, part.labels, strict=True)}
    names = sorted((name for name, label in short.items() if name and name != label), key=len, reverse=True)
    if not names:
        return escape(sentence)
    pieces = re.split(rf"(?<![\w.])({'|'.join(map(re.escape, names))})(?!\w|\.\w)", sentence)
    return join(*(tag("abbr", short[each], title=each) if i % 2 else each for i, each in enumerate(pieces)))


def _pooled(part: PagePart) -> Markup | None:
    """Return the tokens of a few texts by position, and which norm takes one mean of what."""
    inspected = part.inspect if part.inspect and part.inspect.pooled else None
    pooled = inspected.pooled if inspected else part.why.pooled if part.why else None
    if pooled is None or not pooled.texts:
        return None
    grids = [pooled_grid(pooled), means_grid(inspected) if inspected else None]
    return _group("Tokens, position by position", [_grid(grid) for grid in grids if grid], "grids")


def _revisions(part: PagePart) -> Markup | None:
    if part.trajectory is None:
        return None
    return _group("Revision by revision", [_grid(revisions(part.trajectory, UNICODE))], "grids")


def _grid(grid: Grid) -> Markup:
    heads = [f"{column.title} {column.about}".strip() for column in grid.columns]
    rows = list(zip(*(column.cells for column in grid.columns), strict=True))
    return join(
        _scrolling(grid.heading, heads, rows), *(tag("p", note, class_="notes") for note in grid.notes)
    )


def _group(heading: str, content: Sequence[Markup], kind: str) -> Markup | None:
    return join(tag("h3", heading), tag("div", *content, class_=kind)) if content else None


def _one_layer(id: str, part: PagePart, charts: Sequence[Figure]) -> Markup | None:
    if not charts:
        return None
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
    drawn = tag("div", *(_figure(id, part, figure, layer) for figure in charts), class_="figures")
    return join(tag("h3", "One layer"), hint, choice, drawn)


def _figure(id: str, part: PagePart, figure: Figure, layer: int) -> Markup:
    """Return a chart's place with its caption, how to read it, the glossary's definitions, and its table."""
    shown = figure.slice(layer)
    says = shown.says if shown else "This layer has no such numbers."
    numbers = table(figure, shown or Slice({key: [] for key in figure.heads}, ""))
    heading = f"{id}-{figure.name}-title"
    # The findings below the first chart say the same.
    caption = tag("p", _worded(part, says), class_="says") if figure.name != "agreement" else None
    return tag(
        "figure",
        tag("figcaption", tag("h4", figure.title, id=heading), caption),
        tag("div", class_="chart", role="img", aria_label=f"{figure.title} {says}"),
        *(tag("p", note, class_="notes") for note in figure.notes),
        tag(
            "div",
            _defined([ENTRIES[name] for name in figure.metrics]),
            tag("details", tag("summary", "The numbers as a table"), _scrolling(figure.title, *numbers)),
            class_="more",
        ),
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


def _scrolling(title: str, heads: Sequence[str], body: Sequence[Sequence[str]]) -> Markup:
    """Return a table in a region of its own that scrolls."""
    rows = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in body]
    head = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    inside = tag("table", tag("caption", title), head, tag("tbody", *rows))
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {title}")


def _measured(part: PagePart) -> Markup:
    """Return the runs that the numbers are from, and their warnings."""
    lines = [tag("li", *_source(file, result)) for file, result in part.files]
    warnings = dict.fromkeys(text for _, result in part.files for text in result.warnings)
    warned = [tag("p", "Warnings of the runs:"), tag("ul", *(tag("li", text) for text in warnings))]
    return join(tag("h3", "What was measured"), tag("ul", *lines), *(warned if warnings else []))


def _source(file: str, result: Saved) -> Iterator[str]:
    is_trajectory = isinstance(result, Trajectory)
    yield tag("strong", f"normscope {'inspect --revision' if is_trajectory else COMMANDS[type(result)]}")
    yield f" ({file}): " if file else ": "
    if isinstance(result, Comparison):
        yield "; ".join(map(_SEPARATOR.join, sides(result)))
    elif isinstance(result, Trajectory):
        yield _SEPARATOR.join(trajectory_facts(result))
    else:
        yield _SEPARATOR.join([*headline(result), *workload(result)])
    if result.provenance is not None:
        yield tag("br")
        yield f"From: {_SEPARATOR.join(provenance_facts(result.provenance))}"
