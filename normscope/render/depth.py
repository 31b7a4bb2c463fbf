"""Tables of the residual stream along the blocks, one for each stack of blocks."""

import math

from normscope.escaping import counted, printable
from normscope.render.glyphs import logarithms, shares
from normscope.render.grid import Column, Grid
from normscope.render.layer_groups import choose_rows
from normscope.render.numbers import UNKNOWN, align, aligned, short
from normscope.render.terminal import Screen
from normscope.results.depth import DepthPoint, DepthProfile
from normscope.results.glossary.lookup import note
from normscope.results.inspect import Report

_BAR = 8
_NOTES = [
    note("residual.rms", "rms"),
    note("residual.growth", "growth"),
    note("mean_share", "mean share"),
    note("kurtosis", "kurtosis"),
    "Reported, not judged: a stream that grows is not a fault by itself.",
]


def depth_grids(report: Report, screen: Screen, *, every: bool) -> list[Grid | str]:
    """Return the tables of a report's profiles, or a sentence if it has none."""
    if not report.depth:
        return ["No norm is known to read a residual stream along blocks."]
    grids = [_grid(report, profile, screen, every=every) for profile in report.depth if profile.points]
    rest = [printable(line) for profile in report.depth if not profile.points for line in profile.left_out]
    if grids:
        grids[-1] = Grid(grids[-1].heading, grids[-1].columns, [*grids[-1].notes, *rest, *_NOTES])
    return [*grids, *([] if grids else rest)]


def _grid(report: Report, profile: DepthProfile, screen: Screen, *, every: bool) -> Grid:
    layers = [report.layers[point.name] for point in profile.points if point.name in report.layers]
    rows = choose_rows(layers, [profile.first_massive or ""], every=every)
    shown = {layer.name for layer in rows.layers}
    points = [point for point in profile.points if point.name in shown]
    heights = shares(logarithms([point.residual.rms for point in profile.points]).tolist())
    sizes = dict(zip((point.name for point in profile.points), heights, strict=True))
    bars = [screen.glyphs.bar(0.1 + 0.9 * sizes[point.name], _BAR) for point in points]
    columns = [
        Column("layer", "", [point.name for point in points], names=True),
        Column("block", "", align(UNKNOWN if p.block is None else str(p.block) for p in points), rank=2),
        Column("rms", "stream", aligned(point.residual.rms for point in points)),
        Column("", "log scale", bars, rank=3),
        Column("growth", "a block", aligned(point.residual.growth for point in points)),
        Column("mean share", "", aligned((point.mean_share for point in points), 2)),
        Column("kurtosis", "features", aligned(point.kurtosis for point in points)),
        Column("agreement", "with BN", aligned(map(agreement, points)), "bn"),
    ]
    notes = [*rows.note(screen.glyphs.ellipsis), massive(profile), *map(printable, profile.left_out)]
    return Grid(heading(profile), columns, notes)


def heading(profile: DepthProfile) -> str:
    """Return the name of a stack, and what is known of the stream along it as a whole."""
    total = profile.residual.total
    parts = [f"Residual stream along {printable(profile.name)}, {counted(profile.blocks, 'block')}"]
    parts += [] if math.isnan(total) else [f"rms last over first {short(total)}"]
    return ", ".join(parts)


def massive(profile: DepthProfile) -> str:
    """Return the sentence on the first norm with massive activations."""
    first = profile.first_massive
    return f"First massive activations: {printable(first)}." if first else "No massive activations."


def agreement(point: DepthPoint) -> float:
    """Return the agreement with BN at a point, NaN where it was not measured."""
    return point.agreement.get("feature", math.nan)
