"""Three findings of a report in words: agreement with BN, the share of position, and outlier features."""

import itertools
import math
from collections.abc import Callable, Sequence

from rich.cells import cell_len

from normscope.escaping import counted
from normscope.render.grid import reword
from normscope.render.numbers import percent, short
from normscope.render.outliers import share_of_layers
from normscope.render.short_names import shorten
from normscope.render.summary import agreement
from normscope.render.terminal import Screen
from normscope.results.common import RunInfo
from normscope.results.inspect import LayerReport, Report

_FEW_TEXTS = 30
_NAME_WIDTHS = (42, 34, 26, 20, 19, 17, 14)
_SENTENCE = 60  # cells of the sentence without its name, so that names are cut as in the table
_MAX_FEATURES = 3
_OUTLIER = "outlier: 6 or more in size in 6% of the tokens"
_BATCHNORM = "batchnorm"


def cautions(run: RunInfo) -> list[str]:
    """Return facts about the texts that make numbers less sure: few, unreadable or repeated ones."""
    parts = [reword("few texts: rough numbers", run.medium)] if 0 < run.texts < _FEW_TEXTS else []
    parts += [f"{percent(run.unknown_tokens / run.tokens)} unknown tokens"] if run.unknown_tokens else []
    return parts + ([counted(run.repeated_texts, "repeated text")] if run.repeated_texts else [])


def findings(report: Report, screen: Screen) -> list[str]:
    """Return one sentence each, with as many of its later clauses as fit the screen's width."""
    return [
        _fitting(_on_agreement(report, screen), screen),
        _fitting(_on_position(report, screen), screen),
        _fitting(_on_features(report), screen),
    ]


def _fitting(clauses: Sequence[str], screen: Screen) -> str:
    sentence = clauses[0]
    for clause in clauses[1:]:
        if cell_len(f"{sentence}; {clause}.") <= screen.width:
            sentence += f"; {clause}"
    return sentence + "."


def _on_agreement(report: Report, screen: Screen) -> list[str]:
    layers = report.layers.values()
    if layers and all(layer.kind == _BATCHNORM for layer in layers):
        return _on_stored(report, screen)
    extremes = _extremes(report, lambda x: math.nan if x.kind == _BATCHNORM else agreement(x))
    if extremes is None:
        return ["How far BN agrees with the layers was not measured"]
    low, high, middle = extremes
    best, worst = short(agreement(high), 2), short(agreement(low), 2)
    if best == worst:
        return [f"BN fits every layer alike: agreement {best}", "1 is equal up to scale"]
    sentences = [
        f"BN could stand in for LN best at {{}} (agreement {best}), worst at {{}} ({worst})",
        f"BN fits best at {{}} (agreement {best}), worst at {{}} ({worst})",
        f"BN fits best at {{}} ({best}), worst at {{}} ({worst})",
    ]
    clauses = [f"median {short(middle, 2)}", "1 is equal up to scale"]
    return [_named(sentences, [high, low], report, screen), *clauses]


def _on_stored(report: Report, screen: Screen) -> list[str]:
    """Say of a model of BatchNorms how far their stored means are from those of the corpus."""

    def gap(layer: LayerReport) -> float:
        return layer.stored_gap.mean if layer.stored_gap else math.nan

    extremes = _extremes(report, gap)
    if extremes is None:
        return ["Every layer is a BatchNorm already"]
    least, largest = (short(gap(layer), 2) for layer in extremes[:2])
    fed = reword("texts", report.run.medium)
    sentence = f"BatchNorms only: stored means differ from these {fed}' by {least} to {largest} sd"
    return [sentence, _named(["most at {}"], [extremes[1]], report, screen)]


def _on_position(report: Report, screen: Screen) -> list[str]:
    def share(layer: LayerReport) -> float:
        return layer.explained.position.epsilon2 if layer.explained else math.nan

    extremes = _extremes(report, share)
    if extremes is None:
        few = reword("One text cannot show what position explains; give several", report.run.medium)
        return [few if report.run.texts == 1 else "How much position explains was not measured"]
    low, high, _ = extremes
    special = report.run.special_tokens
    tokens = f", special tokens {special}d" if special in ("include", "exclude") else ""
    least, largest = percent(share(low)), percent(share(high))
    if least == largest:
        return [f"Position explains {largest} of the variance in every layer{tokens}"]
    # Corrected for the number of positions, the share falls under 0 where position explains nothing.
    start = f"{least} to " if share(low) > 0 else "up to "
    sentence = f"Position explains {start}{largest} of the variance{tokens}"
    return [sentence, _named(["most at {}"], [high], report, screen)]


def _on_features(report: Report) -> list[str]:
    outliers = [layer.outliers for layer in report.layers.values() if layer.outliers]
    features = report.outlier_features
    if not any(layer.llm_int8 for layer in outliers):
        return ["Which features stand out was not measured"]
    if not features:
        return ["No feature stands out in a quarter of the layers", _OUTLIER]
    shown, rest = features[:_MAX_FEATURES], len(features) - _MAX_FEATURES
    unit = [" layers", *[""] * (len(shown) - 1)]  # named once
    pairs = zip(shown, unit, strict=True)
    listed = ", ".join(f"{each.feature} ({share_of_layers(each)}{noun})" for each, noun in pairs)
    clauses = [f"{rest} more"] if rest > 0 else []
    return [f"Features that stand out: {listed}", *clauses, _OUTLIER]


def _extremes(
    report: Report, read: Callable[[LayerReport], float]
) -> tuple[LayerReport, LayerReport, float] | None:
    """Return the layers with the smallest and the largest number, and the median; None without any."""
    ranked = sorted((x for x in report.layers.values() if math.isfinite(read(x))), key=read)
    if not ranked:
        return None
    middle = (read(ranked[(len(ranked) - 1) // 2]) + read(ranked[len(ranked) // 2])) / 2
    return ranked[0], ranked[-1], middle


def _named(sentences: Sequence[str], layers: Sequence[LayerReport], report: Report, screen: Screen) -> str:
    """Fill names of layers into the first sentence that fits the screen, the names cut as little as possible.

    Braces mark the places of the names. If nothing fits, the last sentence has the shortest names.
    """
    names = [*report.layers]
    widths = [width for width in _NAME_WIDTHS if width <= max(screen.width - _SENTENCE, min(_NAME_WIDTHS))]
    filled = ""
    for width, sentence in itertools.product(widths, sentences):
        cut = dict(zip(names, shorten(names, width, screen.glyphs.ellipsis), strict=True))
        filled = sentence.format(*(cut[layer.name] for layer in layers))
        if cell_len(filled) < screen.width:
            break
    return filled
