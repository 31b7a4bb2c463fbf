"""Writes numbers in few digits, the same way in every table, and aligns them on the decimal point."""

import math
from collections.abc import Iterable

UNKNOWN = "-"


def short(value: float, digits: int = 3) -> str:
    """Write `value` with `digits` significant digits, one fewer before an exponent: 0.0123, 312, 2.1e-4.

    The exponent is that of the rounded number. An unknown number is `-`.
    """
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    power = int(rounded.partition("e")[2])
    if not -3 <= power < 5:  # beyond, zeros would take more room than an exponent
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{float(rounded):.{max(digits - 1 - power, 0)}f}"


def align(texts: Iterable[str]) -> list[str]:
    """Pad written numbers to one width, with their decimal points below each other."""
    parts = [(text, *_split(text)) for text in texts]
    before = max((len(left) for _, left, _ in parts), default=0)
    after = max((len(right) for _, _, right in parts), default=0)
    return [" " * (before - len(left)) + text + " " * (after - len(right)) for text, left, right in parts]


def aligned(values: Iterable[float], digits: int = 3) -> list[str]:
    """Write and align a column of numbers."""
    return align(short(float(value), digits) for value in values)


def with_interval(value: float, low: float, high: float) -> str:
    """Write a number with its interval, if that is known: 0.998 [0.997, 0.999]."""
    return short(value) if math.isnan(low) else f"{short(value)} [{short(low)}, {short(high)}]"


def percent(value: float) -> str:
    """Write a share in [0, 1] as a percentage: 12.3%, 0.2%; `-` when unknown."""
    return UNKNOWN if not math.isfinite(value) else f"{100 * value + 0.0:.1f}%".replace("-0.0%", "0.0%")


def _split(text: str) -> tuple[str, str]:
    """Split a written number at its decimal point, or else at its exponent or percent sign."""
    for mark in (".", "e", "%"):
        index = text.find(mark)
        if index >= 0 and text[:1].lstrip("-") != "i":  # inf has none
            return text[:index], text[index:]
    return text, ""
