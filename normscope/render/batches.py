"""Tables and bars of BatchNorm's statistics in batches, for a terminal or in Markdown."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from normscope.escaping import counted, grouped, printable
from normscope.render.batch_composition import ORDERS, batch_sizes, fillings
from normscope.render.glyphs import UNICODE, Glyphs, logarithms, shares
from normscope.render.grid import Column, Grid, Section
from normscope.render.markdown import markdown_sections
from normscope.render.numbers import UNKNOWN, align, aligned, short
from normscope.render.summary import count_by_kind, headline, spread, workload
from normscope.render.terminal import Screen, render_sections
from normscope.results.batches import BatchNoise, BatchReport, LayerNoise, NoiseParts

_SHOWN_SIZES = 4
_BAR = 20
_BY_FEATURE = "by feature: the noise of one feature, averaged"
_DISTANCE = "distance: PowerNorm's, over the number of features"


def render_batches(
    report: BatchReport, *, layers: Sequence[str] = (), top: int = 10, screen: Screen = Screen()
) -> str:
    """Return the noise of all layers, of some in detail, and what batches hold, as text with line ends.

    `layers` are the names of those in detail; without any, the noisiest. `top` bounds the rows of the
    table over positions. Nothing in the report is taken for markup, and no escape codes are in the
    text but the colours that `screen` asks for.
    """
    return render_sections(_sections(report, layers, top, screen.glyphs), screen)


def render_batches_markdown(report: BatchReport, *, layers: Sequence[str] = (), top: int = 10) -> str:
    """Return what `render_batches` shows as GitHub-flavoured Markdown: every column, no name cut."""
    return markdown_sections(_sections(report, layers, top, UNICODE))


def _sections(report: BatchReport, layers: Sequence[str], top: int, glyphs: Glyphs) -> list[Section]:
    """Return the section of all layers, and one for each layer in detail; what batches hold comes last."""
    shown = list(layers) or noisiest(report)
    first = Section(facts(report), [over_layers(report, shown, glyphs)])
    details = [
        Section([title(layer)], detail(layer, report.kept.texts, glyphs))
        for layer in (report.layers[name] for name in shown)
    ]
    *sections, last = [first, *details]
    return [*sections, replace(last, grids=[*last.grids, *fillings(report, top)])]


def facts(report: BatchReport) -> list[list[str]]:
    """Return the lines of facts above the tables."""
    return [headline(report), workload(report), _choice(report)]


def _choice(report: BatchReport) -> list[str]:
    """Say what the batches are drawn from, and how."""
    kept = report.kept
    texts = counted(kept.texts, "text") if kept.texts < report.run.texts else "all texts"
    momentum = [f"momentum {short(report.momentum)}"] if report.momentum is not None else []
    parts = [f"batches of {texts}, {counted(kept.tokens, 'token')}", counted(report.draws, "draw")]
    return [*parts, f"seed {report.seed}", *momentum]


def noisiest(report: BatchReport) -> list[str]:
    """Name the layer with the most noise in its largest random batches."""
    largest = {
        name: max((row.batch_size for row in layer.sizes or ()), default=0)
        for name, layer in report.layers.items()
    }
    noise = {name: noise_at(report.layers[name], size, "random") for name, size in largest.items()}
    known = [name for name in noise if math.isfinite(noise[name])]
    return [max(known, key=lambda name: noise[name])] if known else []


def title(layer: LayerNoise) -> list[str]:
    """Say which layer the tables below are of, and what it is."""
    about = [f"{grouped(layer.features)} features"] if layer.sizes else ["no batches could be formed"]
    return [printable(part) for part in (layer.name, layer.kind, *about)]


def over_layers(report: BatchReport, shown: Sequence[str], glyphs: Glyphs) -> Grid:
    """Return the table of all layers: noise by batch size, and what batching by length does to it."""
    layers = list(report.layers.values())
    sizes = batch_sizes(report)
    main = {sizes[i] for i in np.linspace(0, len(sizes) - 1, _SHOWN_SIZES).round().astype(int)}
    middle = sorted(main)[1:3] if len(main) > 2 else sorted(main)
    rank = {size: 0 if size in middle else 2 if size in main else 4 for size in sizes}
    columns = [Column("layer", "", [layer.name for layer in layers], names=True)]
    for size in sizes:
        noise = aligned(noise_at(layer, size, "random") for layer in layers)
        columns.append(Column("random", counted(size, "text"), noise, "bn", rank=rank[size]))
    for size in sizes:
        ratios, second = _ratios(layers, size, glyphs), 1 if size in middle else 3
        columns.append(Column("by length", counted(size, "text"), ratios, "bn", rank=second))
    return Grid(
        f"Noise of a batch's mean at {count_by_kind(layers)}",
        columns,
        [
            "random: how far the mean of a batch of so many texts is from the mean of all,",
            "relative to the features' standard deviations. 0 is no noise.",
            f"by length: {glyphs.times}2 is twice the noise when texts of similar length share a batch,",
            f"compared with random batches of as many tokens; {glyphs.times}1 is no difference.",
        ],
        strong=frozenset(i for i, layer in enumerate(layers) if layer.name in shown),
        faint=frozenset(i for i, layer in enumerate(layers) if not layer.sizes),
    )


def detail(layer: LayerNoise, kept: int, glyphs: Glyphs) -> list[Grid]:
    """Return the table of one layer, a row a batch size and order, with the noise as bars."""
    rows = sorted(layer.sizes or (), key=lambda row: row.batch_size)
    if not rows:
        return []
    heights = shares(logarithms([row.tid.mean.mean for row in rows]).tolist())
    bars = [glyphs.bar(0.05 + 0.95 * height, _BAR) for height in heights]
    columns = [
        Column("texts", "a batch", once([grouped(row.batch_size) for row in rows])),
        Column("batches", "", [ORDERS.get(row.order, printable(row.order)) for row in rows]),
        Column("noise", "of mean", spread([row.tid.mean for row in rows], glyphs, 3), "bn"),
        Column("noise", "of sd", spread([row.tid.variance for row in rows], glyphs, 3), "bn"),
        Column("excess", "noise", aligned(row.excess_noise for row in rows), "bn", rank=1),
        *_running_columns(rows),
        Column("of mean", "log scale", bars, "bn", rank=2),
        *_pair("by feature", [_means(row.tid_elementwise) for row in rows], (4, 4), key=_BY_FEATURE),
        *_pair("distance", [_means(row.distance) for row in rows], (5, 5), "variance", key=_DISTANCE),
    ]
    notes = _RUNNING_NOTES if any(row.running for row in rows) else []
    return [Grid("By batch size", columns, [*_falls(rows, kept, glyphs), *notes])]


def noise_at(layer: LayerNoise, size: int, order: str) -> float:
    """Return the noise of means at one size and order, NaN when unknown."""
    row = layer.at(size, order)
    return row.tid.mean.mean if row else math.nan


def excess_at(layer: LayerNoise, size: int, order: str) -> float:
    """Return the noise of means against independent tokens at one size and order, NaN when unknown."""
    row = layer.at(size, order)
    return row.excess_noise if row else math.nan


def _ratios(layers: Sequence[LayerNoise], size: int, glyphs: Glyphs) -> list[str]:
    ratios = [_quotient(excess_at(x, size, "length"), excess_at(x, size, "random")) for x in layers]
    return [f"{glyphs.times if cell.strip() != UNKNOWN else ' '}{cell}" for cell in aligned(ratios)]


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def once(cells: Sequence[str]) -> list[str]:
    """Align cells, and leave a cell empty that repeats the one above."""
    written = align(cells)
    return [cell if i == 0 or cell != written[i - 1] else "" for i, cell in enumerate(written)]


def _means(parts: NoiseParts) -> tuple[float, float]:
    return parts.mean.mean, parts.variance.mean


def _pair(
    head: str, noise: Sequence[tuple[float, float]], ranks: tuple[int, int], of: str = "sd", *, key: str = ""
) -> list[Column]:
    """Return the columns of the noise of means and of standard deviations, each with its rank."""
    means, deviations = (aligned(values) for values in zip(*noise, strict=True))
    return [
        Column(head, "of mean", means, "bn", rank=ranks[0], key=key),
        Column(head, f"of {of}", deviations, "bn", rank=ranks[1], key=key),
    ]


def _running_columns(rows: Sequence[BatchNoise]) -> list[Column]:
    if not any(row.running for row in rows):
        return []
    unknown = (math.nan, math.nan)
    batches = [_means(row.running.tid) if row.running else unknown for row in rows]
    ends = [(row.running.mean, row.running.variance) if row.running else unknown for row in rows]
    return [*_pair("to running", batches, (0, 3)), *_pair("at the end", ends, (0, 3))]


_RUNNING_NOTES = [
    "to running: how far a batch is from BN's running statistics before it.",
    "at the end: how far those end from the statistics of all texts.",
]


def _falls(rows: Sequence[BatchNoise], kept: int, glyphs: Glyphs) -> list[str]:
    """Say how fast the noise falls with batch size, compared with independent texts."""
    notes = [
        "noise: how far a batch's means, and sds, are from those of all texts,",
        f"relative to the features' sds ({glyphs.plus_minus}sd over batches).",
        "excess noise: 2 is twice the noise that as many independent tokens would give.",
    ]
    small, large = rows[0].batch_size, rows[-1].batch_size
    if small == large:
        return notes
    falls = []
    for order, words in ORDERS.items():
        means = {row.batch_size: row.tid.mean.mean for row in rows if row.order == order}
        fall = _quotient(means.get(small, math.nan), means.get(large, math.nan))
        falls += [f"{words} {short(fall, 2)}"] if math.isfinite(fall) else []
    # Batches are drawn without replacement from the very texts that they are compared with. Unequal
    # lengths change this by up to a sixth: `excess_noise` allows for them.
    chance = math.sqrt(large / small * (kept - small) / (kept - large)) if kept > large else math.nan
    return [
        *notes,
        f"Noise at {grouped(small)} over noise at {grouped(large)} texts: {', '.join(falls)}.",
        f"Unrelated texts of equal length would give {short(chance, 2)}.",
    ]
