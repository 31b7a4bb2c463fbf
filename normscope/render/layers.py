"""The list of a model's normalization layers as a table, for a terminal or in Markdown."""

from collections.abc import Sequence

from normscope.escaping import counted, grouped, printable
from normscope.render.grid import Column, Grid, Section
from normscope.render.layer_groups import choose_rows, pattern
from normscope.render.markdown import markdown_sections
from normscope.render.numbers import UNKNOWN, align, aligned
from normscope.render.short_names import below
from normscope.render.summary import model_size
from normscope.render.terminal import Screen, render_sections
from normscope.results.layers import Outline, OutlinedLayer

_PROPERTIES = ("kind", "features", "eps", "affine", "parameters", "place", "module")


def render_outline(
    outline: Outline, *, verbose: bool = False, every_layer: bool = False, screen: Screen = Screen()
) -> str:
    """Return a table with one row a layer, below what all layers share, as text with line ends.

    Of many layers it has a few of each group, or `every_layer`.
    """
    return render_sections([section(outline, verbose, every=every_layer)], screen)


def render_outline_markdown(outline: Outline, *, verbose: bool = False) -> str:
    """Return what `render_outline` shows as GitHub-flavoured Markdown, no name cut."""
    return markdown_sections([section(outline, verbose)])


def section(outline: Outline, verbose: bool, *, every: bool = True) -> Section:
    """Return the model, what its layers share, and their table."""
    grid, shared = outline_grid(outline, verbose, every=every)
    return Section([about(outline), *([shared] if shared else [])], [grid, *_obstacles(outline)])


def about(outline: Outline) -> list[str]:
    """Return the facts about the model."""
    model = outline.model
    revision = [f"revision {model.revision}"] if model.revision else []
    parts = [model.id, model.architecture, model_size(model.parameters), *revision]
    return [printable(part) for part in parts]


def outline_grid(outline: Outline, verbose: bool, *, every: bool = True) -> tuple[Grid, list[str]]:
    """Return the table, and as facts the columns that are left out since all layers have the same value."""
    # Where the properties of a group's layers change, the first layer with new ones has a row.
    first = {
        repr([pattern(layer.name), *(getattr(layer, name) for name in _PROPERTIES)]): layer.name
        for layer in reversed(outline.layers)
    }
    shown = choose_rows(outline.layers, first.values(), every=every, number=lambda layer: layer.index)
    layers = shown.layers
    features = [UNKNOWN if layer.features is None else grouped(layer.features) for layer in layers]
    columns = {
        "kind": Column("kind", "", [printable(layer.kind) for layer in layers]),
        "features": Column("features", "", align(features)),
        "eps": Column("eps", "", aligned((layer.eps for layer in layers), 1), rank=2),
        "affine": Column("affine", "", [printable(layer.affine) for layer in layers], rank=1),
        "parameters": Column("parameters", "", align(grouped(x.parameters) for x in layers), rank=3),
    }
    constant = [name for name in columns if len({repr(getattr(x, name)) for x in outline.layers}) == 1]
    shared = [_fact(name, columns[name].cells[0].strip()) for name in constant]
    linears = _linears(layers)
    grid = Grid(
        counted(len(outline.layers), "normalization layer"),
        [
            *_names(layers, verbose or bool(linears)),
            *(column for name, column in columns.items() if name not in constant),
            Column("place", "", [printable(layer.place) for layer in layers], rank=len(linears)),
            *linears,
            Column("module", "", [printable(layer.module) for layer in layers], rank=0 if verbose else 4),
        ],
        shown.note("..."),
    )
    subject = "the layer" if len(outline.layers) == 1 else "each"
    return grid, [f"{subject}: {shared[0]}", *shared[1:]] if shared else []


def _names(layers: Sequence[OutlinedLayer], verbose: bool) -> list[Column]:
    if not verbose:
        return [Column("layer", "", [layer.name for layer in layers], names=True)]
    return [
        Column("#", "", align(str(layer.index) for layer in layers)),
        Column("layer", "", [printable(layer.name) for layer in layers], wraps=True),
    ]


def _linears(layers: Sequence[OutlinedLayer]) -> list[Column]:
    """Return the column of the Linears that read each layer, if readers were looked for."""
    cells = [
        printable(", ".join(below(layer.name, layer.readers.linears))) or UNKNOWN if layer.readers else ""
        for layer in layers
    ]
    return [Column("read by", "", cells, wraps=True)] if any(cells) else []


def _obstacles(outline: Outline) -> list[Grid]:
    """Return the table of layers whose scale cannot move into the Linears that read them."""
    reasons = [
        (layer.name, f"read by {', '.join(layer.readers.others)}" if layer.readers.others else obstacle)
        for layer in outline.layers
        if layer.readers is not None and (obstacle := layer.readers.obstacle) is not None
    ]
    if not reasons:
        return []
    count = f"{len(reasons)} of {counted(len(outline.layers), 'layer')}"
    names = Column("layer", "", [printable(name) for name, _ in reasons], wraps=True)
    because = Column("because", "", [printable(reason) for _, reason in reasons], wraps=True)
    return [Grid(f"{count} whose scale cannot move into their readers", [names, because])]


def _fact(name: str, cell: str) -> str:
    facts = {"kind": cell, "features": f"{cell} features", "parameters": f"{cell} parameters"}
    return facts.get(name, f"{name} {cell}")
