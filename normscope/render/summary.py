"""The summary of a report: facts about the run, and a table with one row a layer, LN next to BN."""

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
from normscope.results.glossary.lookup import note
from normscope.results.inspect import EffectSize, ExplainedByToken, LayerReport, Report
from normscope.results.swap import SwapReport
from normscope.results.why import WhyReport

_BAR = 3

# The results that hold the model and the run.
_Measured = Report | BatchReport | SwapReport | WhyReport | Compared


def headline(report: _Measured) -> list[str]:
    """Return the facts about the model that was measured."""
    model = report.model
    revision = [f"revision {model.revision}"] if model.revision else []
    parameters = [f"{short(model.parameters / 1e6)}M parameters"] if model.parameters else []
    about = [model.id, model.architecture, model.dtype, model.device, *parameters, *revision]
    return [printable(part) for part in about if part]


def workload(report: _Measured) -> list[str]:
    """Return the facts about what was fed to the model."""
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
    """Return the length of the longest text, or the last position when special tokens are left out."""
    if run.special_tokens == "exclude" and run.positions:
        return f"last at position {grouped(run.positions - 1)}"
    return f"longest {grouped(run.positions)}"


def summary(report: Report, shown: Sequence[str], glyphs: Glyphs) -> Grid:
    """Return the table of all layers; the layers `shown` in detail are stressed."""
    layers = list(report.layers.values())
    kinds = {layer.kind for layer in layers}
    coverage = [x.explained.token.coverage for x in layers if x.explained and x.explained.token]
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        *([Column("kind", "", [_kind(layer, glyphs) for layer in layers])] if len(kinds) > 1 else []),
        *_ln_columns(layers, glyphs, rank=3 if coverage else 1),
        *_bn_columns(layers, glyphs),
        *([_explains("word", layers, "token", 2)] if coverage else []),
        *_wide_columns(layers),
    ]
    called = sum(layer.calls > 0 for layer in layers)
    one_kind = f", all {printable(next(iter(kinds)))}" if len(kinds) == 1 else ""
    dead = f", {len(layers) - called} never called" if called < len(layers) else ""
    return Grid(
        f"{len(layers)} normalization layers{one_kind}{dead}",
        columns,
        [*_legend(kinds, glyphs), *_word_notes(coverage)],
        strong=frozenset(i for i, layer in enumerate(layers) if layer.name in shown),
        faint=frozenset(i for i, layer in enumerate(layers) if not layer.calls),
    )


NOTES = (note("agreement.feature", "agreement"), note("explained.position.epsilon2"))


def _legend(kinds: Iterable[str], glyphs: Glyphs) -> list[str]:
    """Return lines that explain the summary to a first-time reader."""
    lines = [
        f"LN: one mean and variance per token (shown: average {glyphs.plus_minus}sd over tokens).",
        f"BN: one per feature, over all tokens of all texts (shown: minimum{glyphs.ellipsis}maximum).",
        *NOTES,
    ]
    rms = ["rmsnorm: divides by the root mean square and subtracts no mean."]
    return lines + (rms if "rmsnorm" in kinds else [])


def details(report: Report) -> Grid:
    """Return the table of each layer's properties with its full name, for `--verbose`."""
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
    return Grid("Layers in full", columns, [note("own_error")])


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
    return [
        Column("BN variance", "by feature", _ranges(layers, glyphs), "bn"),
        Column("agreement", "with BN", glyphs.bars_after(aligned(agreements), agreements, _BAR), "bn"),
        _explains("position", layers, "position", 2),
    ]


def _wide_columns(layers: Sequence[LayerReport]) -> list[Column]:
    def numbers(read: Callable[[LayerReport], float]) -> list[str]:
        return aligned(read(layer) for layer in layers)

    firsts = [layer.first_position.ratio if layer.first_position else math.nan for layer in layers]
    return [
        _explains("text", layers, "sequence", 3),
        Column("best BN", "fit r2", numbers(fit_r2), rank=4),
        Column("agreement", "position", numbers(lambda x: agreement(x, "position")), rank=5),
        Column("agreement", "text", numbers(lambda x: agreement(x, "sequence")), rank=6),
        Column("first position", "rms ratio", aligned(firsts), rank=7),
        Column("features", "", align(grouped(layer.features) for layer in layers), rank=8),
        Column("module", "", [printable(layer.module) for layer in layers], rank=9),
    ]


def _explains(title: str, layers: Sequence[LayerReport], by: str, rank: int) -> Column:
    shares = align(percent(explained_share(layer, by)) for layer in layers)
    return Column(title, "explains", shares, rank=rank)


def _kind(layer: LayerReport, glyphs: Glyphs) -> str:
    return cut_middle(printable(layer.kind), 10, glyphs.ellipsis)


def _means(summaries: Sequence[Summary | None]) -> list[str]:
    return aligned((s.mean if s else math.nan for s in summaries), 2)


def _spread(summaries: Sequence[Summary | None], glyphs: Glyphs) -> list[str]:
    """Write `mean ±std` with the means aligned; aligning the second number, too, would take too much room."""
    means = _means(summaries)
    pairs = zip(means, summaries, strict=True)
    return [f"{mean} {glyphs.plus_minus}{short(s.std, 2)}" if s else mean for mean, s in pairs]


def _ranges(layers: Sequence[LayerReport], glyphs: Glyphs) -> list[str]:
    """Write the smallest and the largest variance of a feature, aligned at the dots between them."""
    ends = [_ends(layer) for layer in layers]
    room = max((len(low) for low, _ in ends), default=0)
    return [f"{low:>{room}}{glyphs.ellipsis}{high}" if high else f"{low:>{room}}" for low, high in ends]


def _ends(layer: LayerReport) -> tuple[str, str]:
    finite = [v for v in layer.feature.variance.tolist() if math.isfinite(v)] if layer.feature else []
    return (short(min(finite), 2), short(max(finite), 2)) if finite else (UNKNOWN, "")


def explained_share(layer: LayerReport, by: str) -> float:
    """Return the share of the input's variance that one factor explains, NaN when it was not measured."""
    effect: EffectSize | ExplainedByToken | None = getattr(layer.explained, by, None)
    return effect.epsilon2 if effect else math.nan


def fit_r2(layer: LayerReport) -> float:
    """Return the r2 of the best BN's fit, NaN when it was not measured."""
    return layer.affine_fit.r2 if layer.affine_fit else math.nan


def _word_notes(coverage: Sequence[float]) -> list[str]:
    """Return the line that explains the column, and what it leaves out to save memory."""
    if not coverage:
        return []
    minimum = min(coverage)
    rest = f", of the {percent(minimum)} of the tokens whose ids were kept" if minimum < 1 else ""
    return [f"word explains: the same for the token's id{rest}."]
