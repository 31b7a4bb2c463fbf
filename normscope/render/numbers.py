"""Numbers in few digits, one way throughout, and columns of them aligned on the decimal point."""

import math
from collections.abc import Iterable

UNKNOWN = "-"


def short(value: float, digits: int = 3) -> str:
    """Write `value` with `digits` significant digits, one fewer beside an exponent: 0.0123, 312, 2.1e-4.

    The exponent is that of the rounded number. `-` stands for an unknown one.
    """
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    power = int(rounded.partition("e")[2])
    if not -3 <= power < 5:  # outside, the zeros would take more room than the exponent
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{float(rounded):.{max(digits - 1 - power, 0)}f}"


def align(texts: Iterable[str]) -> list[str]:
    """Pad written numbers to one width, their decimal points below each other."""
    parts = [(text, *_split(text)) for text in texts]
    whole = max((len(w) for _, w, _ in parts), default=0)
    fraction = max((len(f) for _, _, f in parts), default=0)
    return [" " * (whole - len(w)) + text + " " * (fraction - len(f)) for text, w, f in parts]


def aligned(values: Iterable[float], digits: int = 3) -> list[str]:
    """Write and align a column of numbers."""
    return align(short(float(value), digits) for value in values)


def with_interval(value: float, low: float, high: float) -> str:
    """Write a number and, where it is known, its interval: 0.998 [0.997, 0.999]."""
    return short(value) if math.isnan(low) else f"{short(value)} [{short(low)}, {short(high)}]"


def percent(value: float) -> str:
    """Write a share in [0, 1] as a percentage: 12.3%, 0.2%; `-` when unknown."""
    return UNKNOWN if not math.isfinite(value) else f"{100 * value + 0.0:.1f}%".replace("-0.0%", "0.0%")


def _split(text: str) -> tuple[str, str]:
    """The parts of a written number before its decimal point, and from there on."""
    for mark in (".", "e", "%"):
        place = text.find(mark)
        if place >= 0 and text[:1].lstrip("-") != "i":
            return text[:place], text[place:]
    return text, ""
