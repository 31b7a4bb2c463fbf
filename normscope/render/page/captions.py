"""Captions: sentences with numbers, for a page's summary and for screen readers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from normscope.escaping import counted, grouped, printable
from normscope.render.batch_composition import ORDERS
from normscope.render.depth import heading, massive
from normscope.render.layer import distances, largest, share_near_bn
from normscope.render.numbers import percent, short, with_interval
from normscope.results.batches import BatchNoise
from normscope.results.common import Counts, Floats
from normscope.results.curve import InputOutputCurve
from normscope.results.depth import DepthProfile
from normscope.results.inspect import LayerReport, OutlierFeature
from normscope.results.swap import Effect, SwapReport
from normscope.results.why import WhyReport

_Write = Callable[[float], str]


def begin(sentence: str) -> str:
    """Return a sentence with a capital letter at its start."""
    return sentence[:1].upper() + sentence[1:]


def explained(names: Sequence[str], by: Mapping[str, Floats]) -> str:
    """Say how much of the variance the position, the text and the word explain: median and range."""
    return " ".join(
        f"The {what} explains {median(values, percent)} of the input's variance in the median layer, "
        f"{_range(names, values, percent)}."
        for what, values in by.items()
    )


def depth(profiles: Iterable[DepthProfile]) -> str:
    """Say how far the residual stream grows along each stack of blocks, and which norms have no point."""
    return " ".join(
        " ".join(
            [f"{heading(profile)}.", massive(profile), *(f"{printable(why)}." for why in profile.left_out)]
        )
        for profile in profiles
    )


def positions(names: Sequence[str], ratios: Sequence[Floats], who: str, numbers: Sequence[int]) -> str:
    """Say at which position the variance is furthest from its layer's average, and what it is at the first.

    `ratios` has each layer's variances over its average, `numbers` the positions of the longest of them.
    """
    worst = (0.0, 0, 0)
    for row, values in enumerate(ratios):
        distances_to_one = np.abs(np.log(np.where(values > 0, values, np.nan)))
        if np.isfinite(distances_to_one).any():
            at = int(np.nanargmax(distances_to_one))
            worst = max(worst, (float(distances_to_one[at]), row, at))
    if not worst[0]:
        return begin(f"{who}'s variance is the same at every position, or not known.")
    start = min(int(np.flatnonzero(np.isfinite(values))[0]) for values in ratios if np.isfinite(values).any())
    first = np.array([values[start] if start < len(values) else np.nan for values in ratios])
    _, row, at = worst
    return begin(
        f"{who}'s variance is furthest from its layer's average at position {numbers[at]} of "
        f"{printable(names[row])}, where it is {short(float(ratios[row][at]))} times that. "
        f"At position {numbers[start]} it is {median(first)} times the average in the median layer, "
        f"{_range(names, first)}."
    )


def features(layers: Sequence[LayerReport], who: str) -> str:
    """Say which feature is left furthest from mean 0 and variance 1, and how many are left near them."""
    outputs_by_name = [(layer.name, layer.own_output) for layer in layers if layer.own_output is not None]
    if not outputs_by_name:
        return "No layer's own output is known."
    outputs = [output for _, output in outputs_by_name]
    worst = [float(np.max(np.nan_to_num(distances(output), nan=-1.0))) for output in outputs]
    name, left = outputs_by_name[int(np.argmax(worst))]
    (feature,) = largest(distances(left), 1)
    near = np.array([share_near_bn(output) for output in outputs])
    return begin(
        f"{who} leaves feature {feature} of {printable(name)} furthest from BN: mean "
        f"{short(left.mean[feature])} and variance {short(left.variance[feature])}, where BN would leave 0 "
        f"and 1. In the median layer {median(near, percent)} of the features keep a standard deviation "
        f"within 10% of 1, {_range([name for name, _ in outputs_by_name], near, percent)}."
    )


def scatter(layer: LayerReport, who: str) -> str:
    """Say how the features of one layer differ in scale, before and after its normalization."""
    stats, left = layer.feature, layer.own_output
    if stats is None or left is None:
        return "The layer's own output is not known."
    before, after = np.sqrt(stats.variance), np.sqrt(left.variance)
    return (
        f"The features' standard deviations are {_extremes(before)} in the input of the layer. "
        f"{begin(who)} leaves {_extremes(after)}, where BN would leave 1; "
        f"{percent(share_near_bn(left))} of {counted(len(after), 'feature')} keep one within 10% of 1."
    )


def profile(layer: LayerReport, who: str) -> str:
    """Say how the variance of one layer changes over the positions, and over the tokens at each."""
    stats = layer.position
    if stats is None:
        return "The layer's positions are not known."
    per_feature = float(np.mean(layer.feature.variance)) if layer.feature is not None else math.nan
    sentence = (
        f"{begin(who)}'s variance, averaged at each position, is "
        f"{_extremes(stats.token_variance, 'position', stats.numbers)}. "
        f"BN per feature has one for all positions, {short(per_feature)} on average."
    )
    spread = relative_spread(layer)
    if math.isfinite(spread):
        sentence += f" At the median position, tokens differ from that average by {percent(spread)} (1 sd)."
    return sentence


def curve(measured: InputOutputCurve) -> str:
    """Say how many elements a curve has, between which ends, and how many are beyond."""
    return (
        f"{counted(int(measured.count.sum()) + measured.beyond, 'element')}: those with an input within "
        f"±{measured.input_limit:g} and an output within ±{measured.output_limit:g} are drawn, "
        f"{grouped(measured.beyond)} are beyond."
    )


def relative_spread(layer: LayerReport) -> float:
    """Return the sd of the tokens' own variances over their average, at the median position."""
    stats = layer.position
    if stats is None or stats.token_variance_std is None:
        return math.nan
    average = stats.token_variance
    ratios = stats.token_variance_std / np.where(average > 0, average, np.nan)
    ratios = ratios[np.isfinite(ratios) & (stats.count > 1)]
    return float(np.median(ratios)) if len(ratios) else math.nan


def noise(names: Sequence[str], size: int, by: Mapping[str, Floats], excess: Mapping[str, Floats]) -> str:
    """Say how far off the means of batches are by order of the texts, and against independent tokens."""
    parts = [f"{order} {median(values)}" for order, values in by.items()]
    order, values = next(iter(by.items()))
    multiples = [f"{each} {median(ratios)}" for each, ratios in excess.items()]
    known = any(np.isfinite(ratios).any() for ratios in excess.values())
    return (
        f"In batches of {size} texts, the means that BN would use are off by this many standard deviations "
        f"in the median layer: {', '.join(parts)}. By layer, {order}: {_range(names, values)}."
        + f" In multiples of what independent tokens would give: {', '.join(multiples)}."
        * known
    )


def sizes(rows: Sequence[BatchNoise]) -> str:
    """Say how the noise of one layer falls with the size of the batch."""
    ordered = sorted(rows, key=lambda row: row.batch_size)
    parts = []
    for order in dict.fromkeys(row.order for row in ordered):
        noise = [f"{short(row.tid.mean.mean)} at {row.batch_size}" for row in ordered if row.order == order]
        parts.append(f"{ORDERS[order]} {noise[0]} texts and {noise[-1]}")
    return f"The means of batches are off by this many standard deviations: {'; '.join(parts)}."


def damage(report: SwapReport) -> str:
    """Say which layer's replacement does the most and the least damage, and what all do together."""
    layers = report.by_damage()
    what = "1 - cosine of the hidden state" if report.baseline.loss is None else "KL in nats"
    together = f"All {counted(len(report.layers), 'layer')} together: {_damage(report.all_.effect)}."
    if not layers:
        return together
    return (
        f"Replaced alone by {printable(report.kind)}, {printable(layers[0].name)} does the most damage, "
        f"{what} {_damage(layers[0].effect)}, and {printable(layers[-1].name)} the least, "
        f"{_damage(layers[-1].effect)}. {together}"
    )


def outliers(features: Sequence[OutlierFeature], layers: int) -> str:
    """Say which features are outliers in many layers."""
    if not features:
        return "No feature is an outlier in many layers."
    named = ", ".join(f"{f.feature} (in {counted(len(f.layers), 'layer')})" for f in features[:5])
    more = f" and {len(features) - 5} more" if len(features) > 5 else ""
    subject = "Features that are outliers" if len(features) > 1 else "A feature that is an outlier"
    return f"{subject} in many layers, of {counted(layers, 'layer')}: {named}{more}."


def movers(names: Sequence[str], means: Floats, spreads: Floats) -> str:
    """Say which layer moved most between two reports."""
    _, high = _ends(means)
    if high is None:
        return "How far the layers moved is not known."
    return (
        f"{printable(names[high])} moved most: BN's means by {short(means[high])} of their standard "
        f"deviations, the standard deviations by {short(spreads[high])}. The median of "
        f"{counted(len(means), 'layer')} is {median(means)} and {median(spreads)}."
    )


def course(what: str, revisions: Sequence[str], medians: Sequence[float]) -> str:
    """Say what the median over layers of a number is at the first and the last revision, and its range."""
    first, last = (f"{median([medians[i]])} at {revisions[i]}" for i in (0, -1))
    low, high = _ends(np.array(medians))
    between = "" if low is None or high is None or low == high else (
        f" The lowest is {short(medians[low])} at {revisions[low]}, the highest {short(medians[high])} at "
        f"{revisions[high]}."
    )  # fmt: skip
    return begin(f"{what}, the median over layers: {first}, {last}.{between}")


def headroom(names: Sequence[str], changes: Sequence[float]) -> str:
    """Say in which layer float16's headroom changed most between two reports."""
    low, high = _ends(np.abs(changes))
    if low is None or high is None:
        return "How the room in float16 changed is not known."
    more = "more" if changes[high] > 0 else "fewer"
    return (
        f"The room below float16's maximum changed most at {printable(names[high])}: "
        f"{short(abs(changes[high]))} {more} powers of two."
    )


def claims(report: WhyReport) -> str:
    """Say how many of the article's claims hold."""
    verdicts = [printable(finding.verdict) for finding in report.claims]
    parts = ", ".join(_verdict(verdicts.count(verdict), verdict) for verdict in dict.fromkeys(verdicts))
    return f"Of the {counted(len(verdicts), 'claim')}: {parts}."


def _verdict(count: int, verdict: str) -> str:
    return f"{count} {verdict if count == 1 or verdict not in ('holds', 'fails') else verdict[:-1]}"


def _damage(effect: Effect) -> str:
    return with_interval(*damage_interval(effect))


def damage_interval(effect: Effect) -> tuple[float, float, float]:
    """Return the damage of a replacement, and the ends of its interval."""
    if effect.kl is not None:
        return effect.kl.mean, effect.kl.low, effect.kl.high
    cosine = effect.hidden_cosine
    return 1 - cosine.mean, 1 - cosine.high, 1 - cosine.low


def _ends(values: Floats) -> tuple[int | None, int | None]:
    if not np.isfinite(values).any():
        return None, None
    return int(np.nanargmin(values)), int(np.nanargmax(values))


def median(values: Iterable[float], write: _Write = short) -> str:
    """Write the median of the numbers that are known, - without any."""
    finite = [value for value in values if np.isfinite(value)]
    return write(float(np.median(finite))) if finite else "-"


def by_layer(values: Floats, write: _Write = short) -> str:
    """Say that a number is a median over layers, and between which ends they lie."""
    if np.count_nonzero(np.isfinite(values)) < 2:
        return "one layer"
    ends = write(float(np.nanmin(values))), write(float(np.nanmax(values)))
    return "in every layer" if ends[0] == ends[1] else f"median layer; {ends[0]} to {ends[1]}"


def _range(names: Sequence[str], values: Floats, write: _Write = short) -> str:
    low, high = _ends(values)
    if low is None or high is None:
        return "with no layer known"
    return (
        f"from {write(float(values[low]))} ({printable(names[low])}) to {write(float(values[high]))} "
        f"({printable(names[high])})"
    )


def _extremes(values: Floats, what: str = "feature", numbers: Counts | None = None) -> str:
    low, high = _ends(values)
    if low is None or high is None:
        return "not known"
    at = np.arange(len(values)) if numbers is None else numbers
    return f"from {short(values[low])} ({what} {at[low]}) to {short(values[high])} ({what} {at[high]})"
