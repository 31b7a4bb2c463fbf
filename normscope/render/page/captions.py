"""Captions in sentences with numbers: a page's summary and the text for screen readers."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from normscope.escaping import counted, printable
from normscope.render.layer import distances
from normscope.render.numbers import percent, short, with_interval
from normscope.results.common import Floats
from normscope.results.inspect import LayerReport, OutlierFeature
from normscope.results.swap import Effect, SwapReport
from normscope.results.why import WhyReport

ORDERS = {"random": "random", "length": "by length", "given": "as given"}
Write = Callable[[float], str]


def agreement(names: Sequence[str], values: Floats) -> str:
    """Say where BN's output is least, and most, like the layer's own."""
    low, high = _ends(values)
    if low is None or high is None:
        return "No layer's agreement with BN is known."
    return (
        f"BN's output is least like the layer's own at {_name(names, low)}, agreement {short(values[low])}, "
        f"and most like it at {_name(names, high)}, {short(values[high])}. "
        f"The median of {counted(len(values), 'layer')} is {_median(values)}; 1 is the same up to scale."
    )


def explained(names: Sequence[str], by: Mapping[str, Floats]) -> str:
    """Say how much of the variance position, text and word explain, and where most and least."""
    return " ".join(
        f"The {what} explains {_median(values, percent)} of the input's variance in the median layer, "
        f"{_range(names, values, percent)}."
        for what, values in by.items()
    )


def positions(names: Sequence[str], ratios: Sequence[Floats], who: str, numbers: Sequence[int]) -> str:
    """Say at which position the scale is furthest from its layer's average, and what the first is like.

    `numbers` are the positions at the places of the longest of the `ratios`.
    """
    worst = (0.0, 0, 0)
    for row, values in enumerate(ratios):
        sizes = np.abs(np.log(np.where(values > 0, values, np.nan)))
        if np.isfinite(sizes).any():
            at = int(np.nanargmax(sizes))
            worst = max(worst, (float(sizes[at]), row, at))
    if not worst[0]:
        return f"{who}'s variance is the same at every position, or not known."
    start = min(int(np.flatnonzero(np.isfinite(values))[0]) for values in ratios if np.isfinite(values).any())
    first = np.array([values[start] if start < len(values) else np.nan for values in ratios])
    _, row, at = worst
    return (
        f"{who}'s variance is furthest from its layer's average at position {numbers[at]} of "
        f"{_name(names, row)}, where it is {short(float(ratios[row][at]))} times that. "
        f"At position {numbers[start]} it is {_median(first)} times the average in the median layer, "
        f"{_range(names, first)}."
    )


def features(layers: Sequence[LayerReport], who: str) -> str:
    """Say which feature is left furthest from mean 0 and variance 1, and how many are left near it."""
    known = [layer for layer in layers if layer.own_output is not None]
    if not known:
        return "No layer's own output is known."
    furthest = [_furthest(layer) for layer in known]
    place = int(np.argmax([distance for _, distance in furthest]))
    layer, (feature, _) = known[place], furthest[place]
    left = layer.own_output
    assert left is not None
    near = np.array([_share_near(each) for each in known])
    return (
        f"{who} leaves feature {feature} of {printable(layer.name)} furthest from BN: mean "
        f"{short(left.mean[feature])} and variance {short(left.variance[feature])}, where BN would leave 0 "
        f"and 1. In the median layer {_median(near, percent)} of the features keep a standard deviation "
        f"within 10% of 1, {_range([each.name for each in known], near, percent)}."
    )


def scatter(layer: LayerReport, who: str) -> str:
    """Say how features of one layer differ in scale, before and after the layer's normalization."""
    stats, left = layer.feature, layer.own_output
    if stats is None or left is None:
        return "Its own output is not known."
    before, after = np.sqrt(stats.variance), np.sqrt(left.variance)
    return (
        f"The features' standard deviations are {_least_most(before)} in the input of "
        f"{printable(layer.name)}. {who} leaves {_least_most(after)}, where BN would leave 1; "
        f"{percent(_share_near(layer))} of {counted(len(after), 'feature')} keep one within 10% of 1."
    )


def profile(layer: LayerReport, who: str) -> str:
    """Say how the variance of one layer runs over the positions."""
    stats = layer.position
    if stats is None:
        return "Its positions are not known."
    above = stats.variance / np.where(stats.token_variance > 0, stats.token_variance, np.nan) - 1
    most = float(np.nanmax(above)) if np.isfinite(above).any() else math.nan
    one = float(np.mean(layer.feature.variance)) if layer.feature is not None else math.nan
    return (
        f"At {printable(layer.name)} {who}'s variance, averaged at each position, is "
        f"{_least_most(stats.token_variance, 'position')}. BN per feature takes one for all positions, "
        f"{short(one)} on average; BN per position is at most {percent(most)} above {who}'s."
    )


def noise(names: Sequence[str], size: int, by: Mapping[str, Floats], excess: Mapping[str, Floats]) -> str:
    """Say how far off batch means are by the order of the texts, and against independent tokens."""
    parts = [f"{ORDERS[order]} {_median(values)}" for order, values in by.items()]
    order, values = next(iter(by.items()))
    multiples = [f"{ORDERS[each]} {_median(ratios)}" for each, ratios in excess.items()]
    known = any(np.isfinite(ratios).any() for ratios in excess.values())
    return (
        f"In batches of {size} texts the means that BN would use are off, in the median layer and in "
        f"standard deviations, by: {', '.join(parts)}. By layer, {ORDERS[order]}: {_range(names, values)}."
        + f" In multiples of what independent tokens would give: {', '.join(multiples)}."
        * known
    )


def sizes(name: str, by: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> str:
    """Say how the noise of one layer falls with the size of the batch."""
    parts = [
        f"{ORDERS[order]} {short(found[0])} at {at[0]} texts and {short(found[-1])} at {at[-1]}"
        for order, (at, found) in by.items()
        if at
    ]
    return (
        f"At {printable(name)} the means of batches are off by so many standard deviations: "
        f"{'; '.join(parts)}."
    )


def damage(report: SwapReport) -> str:
    """Say which layer's replacement does the most damage, which the least, and what all do together."""
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


def outliers(found: Sequence[OutlierFeature], layers: int) -> str:
    """Say which features recur as outliers."""
    if not found:
        return "No feature is an outlier in layer after layer."
    named = ", ".join(f"{each.feature} (in {counted(len(each.layers), 'layer')})" for each in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    what = "Features that are outliers" if len(found) > 1 else "A feature that is an outlier"
    return f"{what} in layer after layer, of {counted(layers, 'layer')}: {named}{more}."


def movers(names: Sequence[str], means: Floats, spreads: Floats) -> str:
    """Say which layer moved most between two reports."""
    _, high = _ends(means)
    if high is None:
        return "How far the layers moved is not known."
    return (
        f"{_name(names, high)} moved most: BN's means by {short(means[high])} of their standard deviations, "
        f"these themselves by {short(spreads[high])}. The median of {counted(len(means), 'layer')} is "
        f"{_median(means)} and {_median(spreads)}."
    )


def claims(report: WhyReport) -> str:
    """Say how many of the article's claims hold."""
    verdicts = [printable(finding.verdict) for finding in report.claims]
    parts = ", ".join(_verdict(verdicts.count(each), each) for each in dict.fromkeys(verdicts))
    return f"Of the article's {counted(len(verdicts), 'claim')}: {parts}."


def _verdict(count: int, verdict: str) -> str:
    return f"{count} {verdict if count == 1 or verdict not in ('holds', 'fails') else verdict[:-1]}"


def _damage(effect: Effect) -> str:
    estimate = effect.hidden_cosine if effect.kl is None else effect.kl
    value, low, high = estimate.mean, estimate.low, estimate.high
    if effect.kl is None:
        value, low, high = 1 - value, 1 - high, 1 - low
    return with_interval(value, low, high)


def _ends(values: Floats) -> tuple[int | None, int | None]:
    if not np.isfinite(values).any():
        return None, None
    return int(np.nanargmin(values)), int(np.nanargmax(values))


def _name(names: Sequence[str], place: int) -> str:
    return printable(names[place])


def _median(values: Iterable[float], write: Write = short) -> str:
    known = [value for value in values if np.isfinite(value)]
    return write(float(np.median(known))) if known else "-"


def _range(names: Sequence[str], values: Floats, write: Write = short) -> str:
    low, high = _ends(values)
    if low is None or high is None:
        return "with no layer known"
    return (
        f"from {write(float(values[low]))} ({_name(names, low)}) to {write(float(values[high]))} "
        f"({_name(names, high)})"
    )


def _least_most(values: Floats, what: str = "feature") -> str:
    low, high = _ends(values)
    if low is None or high is None:
        return "not known"
    return f"from {short(values[low])} ({what} {low}) to {short(values[high])} ({what} {high})"


def _furthest(layer: LayerReport) -> tuple[int, float]:
    assert layer.own_output is not None
    distance = np.nan_to_num(distances(layer.own_output), nan=-1.0)
    place = int(np.argmax(distance))
    return place, float(distance[place])


def _share_near(layer: LayerReport) -> float:
    """The share of the features whose standard deviation after the layer is within 10 % of 1."""
    assert layer.own_output is not None
    deviations = np.sqrt(layer.own_output.variance)
    known = deviations[np.isfinite(deviations)]
    return float(np.mean(np.abs(known - 1) <= 0.1)) if len(known) else math.nan
