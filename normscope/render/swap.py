"""Tables and bars of the effects of replacing layers, for a terminal or in Markdown."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from normscope.escaping import counted, grouped, printable
from normscope.render.glyphs import UNICODE, Glyphs, logarithms, shares
from normscope.render.grid import Column, Grid, Section
from normscope.render.markdown import markdown_sections
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.render.short_names import below
from normscope.render.summary import headline, workload
from normscope.render.terminal import Screen, render_sections
from normscope.results.swap import DerfFit, Effect, Estimate, FoldedLayer, FoldInfo, SwapReport

_BAR = 20
_L2 = "relative L2: how far the hidden states moved, over their size"
_LIKENESS = "likeness kept: correlation of the texts' similarities"
_HEADS = {"causal": "the next token", "masked": "masked tokens", "seq2seq": "the text that is read"}


def render_swap(report: SwapReport, *, screen: Screen = Screen()) -> str:
    """Return the effect of replacing each layer, and all layers, as text with line ends."""
    return render_sections([section(report, screen.glyphs)], screen)


def render_swap_markdown(report: SwapReport) -> str:
    """Return what `render_swap` shows as GitHub-flavoured Markdown: every column, no name cut."""
    return markdown_sections([section(report, UNICODE)])


def section(report: SwapReport, glyphs: Glyphs) -> Section:
    """Return the report's lines of facts and its tables."""
    lines = [headline(report), workload(report), plan(report)]
    return Section([*lines, *([[finding(report)]] if report.layers else [])], grids(report, glyphs))


def finding(report: SwapReport) -> str:
    """Say how much damage the replacements do, one at a time and all together."""
    effects = [*(layer.effect for layer in report.layers.values()), report.all_.effect]
    # Without any finite output, the damage is infinite.
    *alone, together = [each.damage if math.isfinite(each.damage) else math.nan for each in effects]
    finite = [damage for damage in alone if not math.isnan(damage)]
    ends = " to ".join(dict.fromkeys(short(end(finite, default=math.nan), 2) for end in (min, max)))
    broken = f" ({len(alone) - len(finite)} without a finite number)" if len(finite) < len(alone) else ""
    one = f"Damage: {ends} for one layer replaced{broken}"
    return f"{one}, {short(together, 2)} for all {len(alone)}; 0 is no change."


def plan(report: SwapReport) -> list[str]:
    """Return the facts about the replacements' calibration and the predictions of the untouched model."""
    calibration, baseline = report.calibration, report.baseline
    parts = [
        f"calibrated on {counted(calibration.texts, 'other text')}, {counted(calibration.tokens, 'token')}"
    ]
    parts += ["recalibrated"] if calibration.recalibrated else []
    if baseline.head is not None:
        targets = _HEADS.get(baseline.head, printable(baseline.head))
        parts.append(f"predicts {targets}: {counted(baseline.targets, 'token')}")
        parts.append(f"untouched: perplexity {short(baseline.perplexity)}")
    return [*parts, f"seed {report.seed}"]


def grids(report: SwapReport, glyphs: Glyphs) -> list[Grid]:
    """Return the tables: each layer replaced alone, one after the other if measured, and all together."""
    layers, kind = report.by_damage(), printable(report.kind)
    kind += ", position 0 apart" if report.first == "apart" else ""
    names = Column("layer", "", [layer.name for layer in layers], names=True)
    alone = Grid(
        f"{counted(len(layers), 'layer')}, each replaced alone by {kind}",
        [names, *_columns([layer.effect for layer in layers], report, glyphs)],
        _legend(report),
    )
    steps = report.cumulative or ()
    names = Column("layer", "", [step.name for step in steps], names=True)
    effects = [step.effect for step in steps]
    growing = Grid(
        "One after the other, the most tolerant first; each stays replaced",
        [_replaced([step.replaced for step in steps]), names, *_columns(effects, report, glyphs)],
    )
    together = Grid(
        "All of them together",
        [_replaced([len(layers)]), *_columns([report.all_.effect], report, glyphs)],
    )
    return [alone, *([growing] if steps else []), together, *_fits(report), *_folds(report, glyphs)]


def _fits(report: SwapReport) -> Iterator[Grid]:
    """Yield the table of the layers' fits, the worst first, for the kinds that have one."""
    fits = {layer.name: layer.fit for layer in report.layers.values() if layer.fit is not None}
    if not fits:
        return
    names = sorted(fits, key=lambda name: fits[name].r2)
    best = [fits[name] for name in names]
    shifts = [fit.shift for fit in best if isinstance(fit, DerfFit)]
    f, argument = ("erf", "alpha x + shift") if shifts else ("tanh", "alpha x")
    columns = [
        Column("layer", "", names, names=True),
        Column("fit", "r2", aligned(fit.r2 for fit in best), "bn"),
        Column("line", "r2", aligned(fit.affine_r2 for fit in best), "bn"),
        Column("alpha", "", aligned(fit.alpha for fit in best), rank=1),
        *([Column("shift", "", aligned(shifts), rank=3)] if shifts else []),
        Column("saturated", "", align(percent(fit.saturated) for fit in best), rank=2),
    ]
    legend = [
        f"fit r2: how much of the layer's output gamma {f}({argument}) + beta explains.",
        "line r2: the same of the best line, a x + b: affine_fit.r2.",
        "alpha: near 0, the fit is a line, too.",
        f"saturated: elements with |{argument}| above 2.",
        f"{report.kind} is meant for training from scratch: a poor fit of a trained model is a",
        "finding about that model, not a fault.",
    ]
    yield Grid(f"How well one {f} fits each layer", columns, legend)


def _folds(report: SwapReport, glyphs: Glyphs) -> Iterator[Grid]:
    """Yield the tables of the folded layers, of their effect if others remain, and of those not folded."""
    fold = report.fold
    if fold is None:
        return
    folded, others = fold.folded, [layer for layer in fold.layers if layer.reason is not None]
    heading = f"{len(folded)} of {counted(len(fold.layers), 'layer')} folded into the Linears that read them"
    if folded:
        notes = [
            "relative difference: between the model's outputs, replaced and folded, over",
            f"the largest of them; up to {short(fold.tolerance)} they count as equal.",
        ]
        yield Grid(heading, _folded(folded, fold), notes, frozenset([len(folded)]))
    if fold.effect is not None and others:
        columns = [_replaced([len(folded)]), *_columns([fold.effect], report, glyphs)]
        yield Grid("Those that are folded, together", columns)
    if others:
        # These names are not cut: they say where to look.
        names = Column("layer", "", [printable(layer.name) for layer in others])
        why = Column("not folded", "because", [printable(str(layer.reason)) for layer in others], wraps=True)
        yield Grid(f"{counted(len(others), 'layer')} not folded" if folded else heading, [names, why])


def _folded(layers: Sequence[FoldedLayer], fold: FoldInfo) -> list[Column]:
    largest = [*(layer.largest_difference for layer in layers), fold.largest_difference]
    relative = [*(layer.relative_difference for layer in layers), fold.relative_difference]
    readers = [printable(", ".join(below(layer.name, layer.into))) for layer in layers]
    return [
        Column("layer", "", [*(layer.name for layer in layers), "all of these"], names=True),
        Column("read by", "", [*readers, ""], wraps=True),
        Column("largest", "difference", aligned(largest), rank=3),
        Column("relative", "difference", aligned(relative)),
    ]


def _replaced(counts: Sequence[int]) -> Column:
    return Column("replaced", "", align(grouped(count) for count in counts))


def _columns(effects: Sequence[Effect], report: SwapReport, glyphs: Glyphs) -> list[Column]:
    def numbers(read: Callable[[Effect], float]) -> list[str]:
        return aligned(read(effect) for effect in effects)

    def estimates(read: Callable[[Effect], Estimate | None]) -> list[str]:
        return numbers(lambda effect: _mean(read(effect)))

    def intervals(read: Callable[[Effect], Estimate | None]) -> list[str]:
        return [_interval(read(effect), glyphs) for effect in effects]

    damage = Column("damage", "", _bars(effects, report, glyphs), "bn")
    hidden = [
        Column("hidden", "cosine", estimates(lambda e: e.hidden_cosine), "bn", rank=2),
        Column("sentence", "cosine", estimates(lambda e: e.sentence_cosine), "bn", rank=2),
        Column("relative", "L2", estimates(lambda e: e.relative_l2), rank=5, key=_L2),
        Column("likeness", "kept", numbers(lambda e: e.similarity_correlation), rank=6, key=_LIKENESS),
    ]
    if report.baseline.loss is None:
        interval = Column("cosine", "95%", intervals(lambda e: e.hidden_cosine), rank=4)
        return [*hidden[:2], damage, interval, *hidden[2:]]
    agreement = align(percent(_mean(effect.top1_agreement)) for effect in effects)
    return [
        Column("perplexity", "", numbers(lambda e: e.perplexity), "bn"),
        Column("KL", "nats", estimates(lambda e: e.kl), "bn"),
        Column("top 1", "agrees", agreement, "bn", rank=1),
        damage,
        Column("KL", "95%", intervals(lambda e: e.kl), rank=4),
        Column("loss", "nats", estimates(lambda e: e.loss), rank=3),
        *(replace(column, rank=column.rank + 3) for column in hidden),
    ]


def _bars(effects: Sequence[Effect], report: SwapReport, glyphs: Glyphs) -> list[str]:
    """Draw the damage: 1 - cosine from 0 to 1, or KL on a log scale; an infinite damage fills its bar."""
    damage = filled = [effect.damage for effect in effects]
    if report.baseline.loss is not None:
        # All tables share one scale.
        others = [report.all_.effect, *(step.effect for step in report.cumulative or ())]
        others += [layer.effect for layer in report.layers.values()]
        values = [*damage, *(effect.damage for effect in others)]
        heights = shares(logarithms([v if math.isfinite(v) else math.nan for v in values]).tolist())
        filled = [0.04 + 0.96 * height for height in heights[: len(damage)]]
    pairs = zip(filled, damage, strict=True)
    return [glyphs.bar(1.0 if math.isinf(value) else share, _BAR) for share, value in pairs]


def _mean(estimate: Estimate | None) -> float:
    return math.nan if estimate is None else estimate.mean


def _interval(estimate: Estimate | None, glyphs: Glyphs) -> str:
    if estimate is None or not math.isfinite(estimate.low):
        return UNKNOWN
    return f"{short(estimate.low)}{glyphs.ellipsis}{short(estimate.high)}"


def _legend(report: SwapReport) -> list[str]:
    """Return lines that explain the tables to a first-time reader."""
    if report.baseline.loss is None:
        return [
            "hidden cosine: of the last hidden state and the untouched model's, by token.",
            "sentence cosine: of their means over a text's tokens. 1 is the same.",
            "damage: 1 - hidden cosine; the largest comes first.",
        ]
    return [
        "KL: how far the predicted probabilities are from the untouched model's.",
        "top 1 agrees: how often both predict the same token as the likeliest.",
        "damage: KL, on a log scale; the largest comes first.",
    ]
