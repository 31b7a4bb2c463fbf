"""The summary table: what ran, and one row a layer with LN-style beside BN-style numbers."""

import math
from collections.abc import Callable, Iterable, Sequence

from normscope.escaping import counted, grouped, printable
from normscope.render.glyphs import Glyphs
from normscope.render.grid import Column, Grid, reword
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.render.short_names import cut_middle
from normscope.results.batches import BatchReport
from normscope.results.common import RunInfo, Summary
from normscope.results.compare import Compared
from normscope.results.inspect import LayerReport, Report
from normscope.results.swap import SwapReport
from normscope.results.why import WhyReport

_BAR = 3

# What tells which model was measured, and on what.
_Measured = Report | BatchReport | SwapReport | WhyReport | Compared


def headline(report: _Measured) -> list[str]:
    """Say which model was measured."""
    model = report.model
    revision = [f"revision {model.revision}"] if model.revision else []
    parameters = [f"{short(model.parameters / 1e6)}M parameters"] if model.parameters else []
    about = [model.id, model.architecture, model.dtype, model.device, *parameters, *revision]
    return [printable(part) for part in about if part]


def workload(report: _Measured) -> list[str]:
    """Say what was fed to the model."""
    run = report.run
    parts = [
        counted(run.texts, reword("text", run.medium)),
        counted(run.tokens, "token"),
        _longest(run),
        f"padding {percent(run.padding_share)}",
    ]
    parts += [f"{grouped(run.skipped_texts)} skipped"] if run.skipped_texts else []
    parts += [f"{grouped(run.truncated_texts)} truncated"] if run.truncated_texts else []
    parts += ["special tokens excluded"] if run.special_tokens == "exclude" else []
    return [*parts, f"{run.seconds:.1f} s"]


def _longest(run: RunInfo) -> str:
    """Say how long the texts are, or how far the tokens reach of which the special ones are left out."""
    if run.special_tokens == "exclude" and run.positions:
        return f"last at position {grouped(run.positions - 1)}"
    return f"longest {grouped(run.positions)}"


def summary(report: Report, shown: Sequence[str], glyphs: Glyphs) -> Grid:
    """Return the table of all layers; the layers `shown` in detail are stressed."""
    layers = list(report.layers.values())
    kinds = {layer.kind for layer in layers}
    words = [layer.explained.token.coverage for layer in layers if layer.explained and layer.explained.token]
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        *([Column("kind", "", [_kind(layer, glyphs) for layer in layers])] if len(kinds) > 1 else []),
        *_ln_columns(layers, glyphs, rank=3 if words else 1),
        *_bn_columns(layers, glyphs),
        *([Column("word", "explains", align(map(_word, layers)), rank=2)] if words else []),
        *_wide_columns(layers),
    ]
    called = sum(layer.calls > 0 for layer in layers)
    one_kind = f", all {printable(next(iter(kinds)))}" if len(kinds) == 1 else ""
    dead = f", {len(layers) - called} never called" if called < len(layers) else ""
    return Grid(
        f"{len(layers)} normalization layers{one_kind}{dead}",
        columns,
        [*legend(kinds, glyphs), *_word_notes(words)],
        strong=frozenset(i for i, layer in enumerate(layers) if layer.name in shown),
        faint=frozenset(i for i, layer in enumerate(layers) if not layer.calls),
    )


def legend(kinds: Iterable[str], glyphs: Glyphs) -> list[str]:
    """Explain the summary to someone who sees it for the first time."""
    lines = [
        f"LN: one mean and variance per token (shown: average {glyphs.plus_minus}sd over tokens).",
        f"BN: one per feature, over all tokens of all texts (shown: least{glyphs.ellipsis}greatest).",
        "agreement: cosine of the layer's own output and BN's; 1 is the same up to scale.",
        "position explains: share of the input's variance that goes with the position.",
    ]
    rms = ["rmsnorm: divides by the root mean square and subtracts no mean."]
    return lines + (rms if "rmsnorm" in kinds else [])


def details(report: Report) -> Grid:
    """Return the table of what each layer is and was, with its full name, for `--verbose`."""
    layers = list(report.layers.values())
    columns = [
        Column("#", "", align(str(layer.index) for layer in layers)),
        Column("calls", "", align(grouped(layer.calls) for layer in layers)),
        Column("tokens", "", align(grouped(layer.count) for layer in layers)),
        Column("own error", "", aligned((layer.own_error for layer in layers), 2)),
        Column("eps", "", aligned((layer.eps for layer in layers), 2), rank=3),
        Column("affine", "", [printable(layer.affine) for layer in layers], rank=4),
        Column("layout", "", [printable(layer.layout or UNKNOWN) for layer in layers], rank=2),
        Column("full name", "", [printable(layer.name) for layer in layers], wraps=True),
    ]
    note = "own error: the largest gap between our formula and the module's real output, relative to its rms."
    return Grid("Layers in full", columns, [note])


def agreement(layer: LayerReport, view: str = "feature") -> float:
    """Return the layer's agreement with a view, NaN when it was not measured."""
    return (layer.agreement or {}).get(view, math.nan)


def _ln_columns(layers: Sequence[LayerReport], glyphs: Glyphs, rank: int) -> list[Column]:
    means = [layer.token.mean if layer.token else None for layer in layers]
    variances = [layer.token.variance if layer.token else None for layer in layers]
    return [
        Column("LN mean", "by token", _spread(means, glyphs), "ln", brief=_means(means), rank=rank),
        Column("LN variance", "by token", _spread(variances, glyphs), "ln"),
    ]


def _bn_columns(layers: Sequence[LayerReport], glyphs: Glyphs) -> list[Column]:
    agreements = [agreement(layer) for layer in layers]
    bars = [glyphs.bar(value, _BAR) for value in agreements]
    numbers = aligned(agreements)
    positions = [_explained(layer, "position") for layer in layers]
    return [
        Column("BN variance", "by feature", _ranges(layers, glyphs), "bn"),
        Column("agreement", "with BN", [f"{n} {b}" for n, b in zip(numbers, bars, strict=True)], "bn"),
        Column("position", "explains", align(positions), rank=2),
    ]


def _wide_columns(layers: Sequence[LayerReport]) -> list[Column]:
    def numbers(read: Callable[[LayerReport], float]) -> list[str]:
        return aligned(read(layer) for layer in layers)

    return [
        Column("text", "explains", align(_explained(layer, "sequence") for layer in layers), rank=3),
        Column("best BN", "fit r2", numbers(_fit), rank=4),
        Column("agreement", "position", numbers(lambda x: agreement(x, "position")), rank=5),
        Column("agreement", "text", numbers(lambda x: agreement(x, "sequence")), rank=6),
        Column("first position", "rms ratio", numbers(_first), rank=7),
        Column("features", "", align(grouped(layer.features) for layer in layers), rank=8),
        Column("module", "", [printable(layer.module) for layer in layers], rank=9),
    ]


def _kind(layer: LayerReport, glyphs: Glyphs) -> str:
    return cut_middle(printable(layer.kind), 10, glyphs.ellipsis)


def _means(summaries: Sequence[Summary | None]) -> list[str]:
    return aligned((s.mean if s else math.nan for s in summaries), 2)


def _spread(summaries: Sequence[Summary | None], glyphs: Glyphs) -> list[str]:
    """Write `mean ±std`, the means aligned; one more aligned column would take too much room."""
    means = _means(summaries)
    pairs = zip(means, summaries, strict=True)
    return [f"{mean} {glyphs.plus_minus}{short(s.std, 2)}" if s else mean for mean, s in pairs]


def _ranges(layers: Sequence[LayerReport], glyphs: Glyphs) -> list[str]:
    """Write the least and the greatest variance of a feature, the two ends aligned at the dots."""
    ends = [_ends(layer) for layer in layers]
    room = max((len(low) for low, _ in ends), default=0)
    return [f"{low:>{room}}{glyphs.ellipsis}{high}" if high else f"{low:>{room}}" for low, high in ends]


def _ends(layer: LayerReport) -> tuple[str, str]:
    known = [v for v in layer.feature.variance.tolist() if math.isfinite(v)] if layer.feature else []
    return (short(min(known), 2), short(max(known), 2)) if known else (UNKNOWN, "")


def _explained(layer: LayerReport, by: str) -> str:
    if layer.explained is None:
        return UNKNOWN
    effect = layer.explained.position if by == "position" else layer.explained.sequence
    return percent(effect.epsilon2)


def _word(layer: LayerReport) -> str:
    effect = layer.explained.token if layer.explained else None
    return UNKNOWN if effect is None else percent(effect.epsilon2)


def _word_notes(coverage: Sequence[float]) -> list[str]:
    """Explain the column, and say what it leaves out for want of memory."""
    if not coverage:
        return []
    least = min(coverage)
    rest = f", of the {percent(least)} of the tokens whose ids were kept" if least < 1 else ""
    return [f"word explains: the same for the token's id{rest}."]


def _fit(layer: LayerReport) -> float:
    return layer.affine_fit.r2 if layer.affine_fit else math.nan


def _first(layer: LayerReport) -> float:
    return layer.first_position.ratio if layer.first_position else math.nan
