"""Terminal plots of batch noise by batch size, and of batch composition."""

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from normscope.escaping import counted, grouped
from normscope.render.batch_composition import ORDERS, batch_sizes, filling_of, usual_size
from normscope.render.batches import facts, noise_at, noisiest, once, title
from normscope.render.curves import Curve, curve_grid
from normscope.render.glyphs import logarithms, shares
from normscope.render.grid import GOOD_NAME, Column, Grid
from normscope.render.numbers import align, aligned, percent, short
from normscope.render.terminal import Screen, draw_facts, draw_grid, render_parts
from normscope.results.batches import BatchReport, LayerNoise

_WIDEST_STAIR = 4
NUMBERS = 16  # columns for the two numbers around the stairs of one order
_MOST_BARS = 60


def render_batch_plots(report: BatchReport, *, layers: Sequence[str] = (), screen: Screen = Screen()) -> str:
    """Return the noise of all layers against the batch size, and what batches hold, as text with line ends.

    `layers` are the names of those drawn as bars; without any, the noisiest. Nothing in the report is
    taken for markup, and no escape codes are in the text but the colours that `screen` asks for.
    """
    return render_parts(_parts(report, list(layers) or noisiest(report), screen), screen)


def _parts(report: BatchReport, shown: Sequence[str], screen: Screen) -> Iterator[RenderableType]:
    yield from draw_facts(facts(report), screen)
    yield from draw_grid(_noise_by_size(report, shown, screen), screen)
    for name in shown:
        yield Text()
        yield from draw_facts([title(report.layers[name])], screen)
        if report.layers[name].sizes:
            yield from draw_grid(_noise_bars(report.layers[name], screen), screen)
    yield from draw_grid(padding(report, screen), screen)
    yield from draw_grid(_texts_by_position(report, screen), screen)


def _noise_by_size(report: BatchReport, shown: Sequence[str], screen: Screen) -> Grid:
    """Return the table of all layers: noise against batch size as stairs, at random and by length."""
    layers, sizes = list(report.layers.values()), batch_sizes(report)
    orders = [order for order in ORDERS if any(_known(report, order))]
    every = logarithms([noise_at(x, size, order) for x in layers for order in orders for size in sizes])
    heights = iter(shares(every.tolist()))
    room = (screen.width - GOOD_NAME) // 2 - NUMBERS
    wide = min(max(room // len(sizes), 1), _WIDEST_STAIR)
    stairs = [
        ["".join(screen.glyphs.stairs([next(heights)]) * wide for _ in sizes) for _ in orders] for _ in layers
    ]
    known = [*_known(report, *orders)]
    columns = [Column("layer", "", [layer.name for layer in layers], names=True)]
    for i, order in enumerate(orders):
        first, last = (
            aligned((noise_at(x, size, order) for x in layers), 2) for size in (sizes[0], sizes[-1])
        )
        steps = [row[i] for row in stairs]
        cells = [f"{a} {step} {b}" for a, step, b in zip(first, steps, last, strict=True)]
        span = f"{sizes[0]}{screen.glyphs.ellipsis}{counted(sizes[-1], 'text')}"
        columns.append(Column(ORDERS[order], span, cells, "bn", rank=3 * (order == "given"), drawn=True))
    low, high = (short(end(known, default=math.nan), 2) for end in (min, max))
    notes = [
        "Noise of a batch's mean, relative to the features' standard deviations.",
        "By length, batches hold unequal numbers of tokens, and that changes the noise:",
        "excess noise, in the tables and in JSON, allows for it.",
        f"Batch sizes: {', '.join(map(grouped, sizes))}.",
        f"One log scale for all: {low} {screen.glyphs.levels} {high}",
    ]
    strong = frozenset(i for i, layer in enumerate(layers) if layer.name in shown)
    faint = frozenset(i for i, layer in enumerate(layers) if not layer.sizes)
    return Grid("Noise against batch size", columns, notes, strong, faint)


def _noise_bars(layer: LayerNoise, screen: Screen) -> Grid:
    """Return one layer's noise as bars, a row a batch size and order."""
    rows = sorted(layer.sizes or (), key=lambda row: row.batch_size)
    noise = [row.tid.mean.mean for row in rows]
    width = min(screen.width - 36, _MOST_BARS)
    # The least bar is short and not empty: empty would be no noise.
    bars = [screen.glyphs.bar(0.04 + 0.96 * share, width) for share in shares(logarithms(noise).tolist())]
    columns = [
        Column("texts", "a batch", once([grouped(row.batch_size) for row in rows])),
        Column("batches", "", [ORDERS[row.order] for row in rows]),
        Column("noise", "of mean", aligned(noise), "bn"),
        Column("", "log scale", bars, "bn", drawn=True),
    ]
    low, high = (short(end(noise)) for end in (min, max))
    return Grid("Noise by batch size", columns, [f"The bars are from {low} to {high}, on a log scale."])


def padding(report: BatchReport, screen: Screen) -> Grid:
    """Return the share of padding as bars from 0 to 1, at random next to by length."""
    sizes = batch_sizes(report)
    width = min((screen.width - 30) // 2, _MOST_BARS)
    columns = [Column("texts", "a batch", align(grouped(size) for size in sizes))]
    for order in ("random", "length"):
        padded = [filling_of(report, size, order).padding_share for size in sizes]
        cells = screen.glyphs.bars_after(align(map(percent, padded)), padded, width)
        columns.append(Column("padding", ORDERS[order], cells, drawn=True))
    return Grid("Padding", columns, ["Every bar is from 0 to 100% of the token slots."])


def _texts_by_position(report: BatchReport, screen: Screen) -> Grid:
    """Return how many texts reach each position, in all and in a batch, as curves."""
    size = usual_size(report)
    orders = ("random", "length")
    in_batches = [Curve(ORDERS[order], filling_of(report, size, order).positions) for order in orders]
    curves = [Curve("all texts", report.kept.positions), *in_batches]
    notes = ["Texts of a batch that reach the position, in batches that have it."]
    heading = f"Texts by position, in all and in batches of {grouped(size)}"
    return curve_grid(heading, curves, "position", screen, notes)


def _known(report: BatchReport, *orders: str) -> Iterator[float]:
    """Yield the noise that is known, of all layers, in some orders."""
    for layer in report.layers.values():
        noise = [row.tid.mean.mean for row in layer.sizes or () if row.order in orders]
        yield from (value for value in noise if value > 0 and math.isfinite(value))
