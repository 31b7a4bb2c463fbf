"""A comparison of two reports as a table, for a terminal or in Markdown."""

from normscope.escaping import counted, printable
from normscope.render.glyphs import UNICODE, Glyphs
from normscope.render.grid import Column, Grid
from normscope.render.markdown import join_facts, markdown_table
from normscope.render.numbers import align, aligned, short
from normscope.render.summary import headline, workload
from normscope.render.terminal import Screen, draw_grid, flow, render_parts
from normscope.results.compare import Compared, Comparison, LayerDrift

_BAR = 4
_POSITION = "position change: of the share that position explains, B minus A"
_ROOM = "headroom change: of the room below float16's maximum, in powers of two"
_LARGEST = "input, output change: of the largest |value|, in powers of two"
_SHARE = "mean share change: B minus A"


def render_comparison(comparison: Comparison, *, top: int = 20, screen: Screen = Screen()) -> str:
    """Return the table of the `top` layers whose statistics moved most, as text with line ends."""
    heads = [flow(side, screen, "bold") for side in sides(comparison)]
    return render_parts([*heads, *draw_grid(drifts(comparison, top, screen.glyphs), screen)], screen)


def render_comparison_markdown(comparison: Comparison, *, top: int = 20) -> str:
    """Return what `render_comparison` shows as GitHub-flavoured Markdown: every column, no name cut."""
    heads = "  \n".join(map(join_facts, sides(comparison)))
    return "\n\n".join([f"## {heads}", *markdown_table(drifts(comparison, top, UNICODE))]) + "\n"


def sides(comparison: Comparison) -> list[list[str]]:
    """Return the facts about A and B: which model was measured, and what was fed to it."""
    return [_about(side, name) for side, name in zip(comparison.reports, "AB", strict=True)]


def _about(side: Compared, name: str) -> list[str]:
    model, *rest = headline(side)
    return [f"{name}: {model}", *rest[:2], *workload(side)[:2]]


def drifts(comparison: Comparison, top: int, glyphs: Glyphs) -> Grid:
    """Return the table of the layers that moved most."""
    layers = list(comparison.layers.values())[:top]
    maximum = max((layer.bn_drift.mean for layer in layers if layer.bn_drift.mean >= 0), default=0.0)
    means = [layer.bn_drift.mean for layer in layers]
    shares = [mean / maximum if maximum else 0.0 for mean in means]
    renamed = any(layer.name != layer.other for layer in layers)
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        *([Column("layer of B", "", [printable(x.other) for x in layers], rank=7)] if renamed else []),
        Column("BN mean", "moved by", glyphs.bars_after(aligned(means), shares, _BAR), "bn"),
        Column("BN sd", "moved by", aligned(layer.bn_drift.variance for layer in layers), "bn"),
        Column("LN mean", "moved by", aligned((layer.ln_drift.mean for layer in layers), 2), "ln", rank=3),
        Column("LN variance", "moved by", aligned((x.ln_drift.variance for x in layers), 2), "ln", rank=1),
        Column("agreement", "change", _signed(layers, "agreement_change"), key="agreement change: B minus A"),
        Column("headroom", "change", _signed(layers, "headroom_change"), rank=2, key=_ROOM),
        Column("input", "change", _signed(layers, "largest_input_change"), rank=4, key=_LARGEST),
        Column("output", "change", _signed(layers, "largest_output_change"), rank=4, key=_LARGEST),
        Column("position", "change", _signed(layers, "position_change"), rank=5, key=_POSITION),
        Column("mean share", "change", _signed(layers, "mean_share_change"), rank=6, key=_SHARE),
    ]
    return Grid(_heading(comparison, len(layers)), columns, _notes(comparison))


def _signed(layers: list[LayerDrift], name: str) -> list[str]:
    values = [getattr(layer, name) for layer in layers]
    return align(f"+{short(v, 2)}" if v > 0 else short(v, 2) for v in values)


def _heading(comparison: Comparison, shown: int) -> str:
    layers = counted(len(comparison.layers), "normalization layer")
    order = f", the {shown} that moved most" if shown < len(comparison.layers) else ", most moved first"
    return layers + order


def _notes(comparison: Comparison) -> list[str]:
    lines = [
        "BN: distance of the means, and of the standard deviations, of the features,",
        "over the norm of A's standard deviations (TID). 0 is no difference.",
        "LN: the same for the mean and variance of tokens, over A's sd and variance.",
    ]
    for side, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines += [f"only in {side}: {printable(names[0])}{more}"] if names else []
    return lines
