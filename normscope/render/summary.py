"""The summary of a report: facts about the run, and a table with one row a layer, LN next to BN."""

import math
from collections.abc import Callable, Collection, Sequence

from normscope.escaping import counted, grouped, printable
from normscope.render.glyphs import Glyphs
from normscope.render.grid import Column, Grid, reword
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.render.short_names import cut_middle
from normscope.render.sparklines import feature_lines, position_lines
from normscope.render.terminal import Screen
from normscope.results.batches import BatchReport, LayerNoise
from normscope.results.common import RunInfo, Summary
from normscope.results.compare import Compared
from normscope.results.glossary.lookup import note
from normscope.results.inspect import EffectSize, ExplainedByToken, LayerReport, Report
from normscope.results.swap import SwapReport
from normscope.results.why import WhyReport

_BAR = 3
_MAX_SPARK = 16
_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))

# The results that hold the model and the run.
_Measured = Report | BatchReport | SwapReport | WhyReport | Compared


def headline(report: _Measured) -> list[str]:
    """Return the facts about the model that was measured."""
    model = report.model
    revision = [f"revision {model.revision}"] if model.revision else []
    parameters = [model_size(model.parameters)] if model.parameters else []
    about = [model.id, model.architecture, model.dtype, model.device, *parameters, *revision]
    return [printable(part) for part in about if part]


def model_size(parameters: int) -> str:
    """Write how many parameters a model has, in billions, millions or thousands."""
    unit, letter = next((u for u in _UNITS if parameters >= u[0]), (1, ""))
    return f"{short(parameters / unit) if letter else parameters}{letter} parameters"


def workload(report: _Measured, *, brief: bool = False) -> list[str]:
    """Return the facts about what was fed to the model; a `brief` list leaves out length and padding."""
    run = report.run
    parts = [counted(run.texts, reword("text", run.medium)), counted(run.tokens, "token")]
    padding = [f"padding {percent(run.padding_share)}"] if math.isfinite(run.padding_share) else []
    parts += [] if brief else [_longest(run), *padding]
    parts += [f"{grouped(run.skipped_texts)} skipped"] if run.skipped_texts else []
    parts += [f"{grouped(run.truncated_texts)} truncated"] if run.truncated_texts else []
    parts += ["special tokens excluded"] if run.special_tokens == "exclude" else []
    left_out = 0 if run.selection is None or run.left_out is None else sum(vars(run.left_out).values())
    parts += [f"{counted(left_out, 'token')} left out"] if left_out else []
    return [*parts, f"{run.seconds:.1f} s"]


def _longest(run: RunInfo) -> str:
    """Return the length of the longest text, or the last position when tokens are left out."""
    if (run.special_tokens == "exclude" or run.selection is not None) and run.positions:
        return f"last at position {grouped(run.positions - 1)}"
    return f"longest {grouped(run.positions)}"


def layer_count(report: Report) -> str:
    """Return how many layers there are, their kind if it is one, and how many were never called."""
    layers = report.layers.values()
    called = sum(layer.calls > 0 for layer in layers)
    dead = f", {len(layers) - called} never called" if called < len(layers) else ""
    return f"{count_by_kind(layers)}{dead}"


def count_by_kind(layers: Collection[LayerReport] | Collection[LayerNoise]) -> str:
    """Return how many layers there are, and their kind if it is one."""
    kinds = {layer.kind for layer in layers}
    one_kind = f", all {printable(next(iter(kinds)))}" if len(kinds) == 1 else ""
    return f"{counted(len(layers), 'normalization layer')}{one_kind}"


def summary(report: Report, layers: Sequence[LayerReport], shown: Collection[str], screen: Screen) -> Grid:
    """Return the table with a row for each of the `layers`; those `shown` in detail are stressed."""
    glyphs, kinds = screen.glyphs, {layer.kind for layer in report.layers.values()}
    cut_kinds = [cut_middle(printable(layer.kind), 10, glyphs.ellipsis) for layer in layers]
    coverage = [x.explained.token.coverage for x in layers if x.explained and x.explained.token]
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        *([Column("kind", "", cut_kinds)] if len(kinds) > 1 else []),
        *_main_columns(layers, glyphs),
        *([_explains("word", layers, "token", 1)] if coverage else []),
        *_lines(layers, min(max(screen.width // 11, 7), _MAX_SPARK), glyphs),
        *_wide_columns(layers, glyphs),
    ]
    return Grid(
        layer_count(report),
        columns,
        [f"word: of the {percent(min(coverage))} of the tokens whose ids were kept."]
        if coverage and min(coverage) < 1
        else [],
        strong=frozenset(i for i, layer in enumerate(layers) if layer.name in shown),
        faint=frozenset(i for i, layer in enumerate(layers) if not layer.calls),
        compact=True,
    )


NOTES = (note("agreement.feature", "agreement"), note("explained.position.epsilon2"))


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


def _main_columns(layers: Sequence[LayerReport], glyphs: Glyphs) -> list[Column]:
    variances = [layer.token.variance if layer.token else None for layer in layers]
    agreements = [agreement(layer) for layer in layers]
    bars = glyphs.bars_after(aligned(agreements), agreements, _BAR)
    ln, bn = f"LN: mean {glyphs.plus_minus}sd", f"BN: min{glyphs.ellipsis}max"
    return [
        Column("LN variance", "by token", spread(variances, glyphs), "ln", key=ln),
        Column("BN variance", "by feature", _ranges(layers, glyphs), "bn", key=bn),
        Column("agreement", "with BN", bars, "bn", key="agreement: 1 is equal"),
    ]


def _lines(layers: Sequence[LayerReport], cells: int, glyphs: Glyphs) -> list[Column]:
    by_position, by_feature = (draw(layers, cells, glyphs) for draw in (position_lines, feature_lines))
    key = "BN by: variance, log scale"
    return [
        Column("BN by", "position", by_position, "bn", rank=1, drawn=True, key=key),
        Column("BN by", "feature", by_feature, "bn", rank=2, drawn=True, key=key),
    ]


def _wide_columns(layers: Sequence[LayerReport], glyphs: Glyphs) -> list[Column]:
    def numbers(read: Callable[[LayerReport], float]) -> list[str]:
        return aligned(read(layer) for layer in layers)

    means = [layer.token.mean if layer.token else None for layer in layers]
    firsts = [layer.first_position.ratio if layer.first_position else math.nan for layer in layers]
    ln, features = f"LN: mean {glyphs.plus_minus}sd", align(grouped(layer.features) for layer in layers)
    first = "rms ratio: size at position 0 over that elsewhere"
    return [
        _explains("position", layers, "position", 3),
        _explains("text", layers, "sequence", 4),
        Column("LN mean", "by token", spread(means, glyphs), "ln", rank=5, key=ln),
        Column("best BN", "fit r2", numbers(fit_r2), rank=6, key="best BN: R^2 of a fixed scale and shift"),
        Column("agreement", "position", numbers(lambda x: agreement(x, "position")), rank=7),
        Column("agreement", "text", numbers(lambda x: agreement(x, "sequence")), rank=8),
        Column("first position", "rms ratio", aligned(firsts), rank=9, key=first),
        Column("features", "", features, rank=10),
        Column("module", "", [printable(layer.module) for layer in layers], rank=11),
    ]


def _explains(title: str, layers: Sequence[LayerReport], by: str, rank: int) -> Column:
    shares = align(percent(explained_share(layer, by)) for layer in layers)
    return Column(title, "explains", shares, rank=rank, key="explains: share of variance")


def spread(summaries: Sequence[Summary | None], glyphs: Glyphs, digits: int = 2) -> list[str]:
    """Write `mean ±std` with the means aligned; aligning the second number, too, would take too much room."""
    means = aligned((s.mean if s else math.nan for s in summaries), digits)
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
