"""Characters for drawing bars, sparklines and signs, in Unicode or plain ASCII."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

# numpy is imported where arrays are drawn: without it, a screen of text appears in half the time.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Glyphs:
    """One set of drawing characters: `levels` get higher, `shades` get darker, `eighths` fill a cell."""

    ellipsis: str
    plus_minus: str
    separator: str
    rule: str
    levels: str
    eighths: str
    times: str
    shades: str

    def bar(self, share: float, width: int) -> str:
        """Draw `share` in [0, 1] as a bar of at most `width` cells; empty when it is unknown."""
        if not math.isfinite(share):
            return ""
        steps = round(min(max(share, 0.0), 1.0) * width * len(self.eighths))
        full, rest = divmod(steps, len(self.eighths))
        return self.eighths[-1] * full + (self.eighths[rest - 1] if rest else "")

    def bars_after(self, numbers: Iterable[str], shares: Iterable[float], width: int) -> list[str]:
        """Return each written number with the bar of its share after it."""
        pairs = zip(numbers, shares, strict=True)
        return [f"{number} {self.bar(share, width)}".rstrip() for number, share in pairs]

    def spark(self, values: "ArrayLike", width: int) -> str:
        """Draw numbers as one line of at most `width` levels from minimum to maximum; a gap is unknown.

        If there are more numbers than cells, each cell shows the average of a run of them.
        """
        import numpy as np

        numbers = np.asarray(values, dtype=np.float64)
        runs = np.array_split(numbers, min(width, len(numbers))) if len(numbers) else []
        return self.stairs(shares([_mean(run) for run in runs]))

    def stairs(self, heights: Sequence[float]) -> str:
        """Draw each share in [0, 1] as a level; a gap is unknown."""
        return "".join(_pick(self.levels, share) for share in heights)

    def shade(self, share: float) -> str:
        """Draw `share` in [0, 1] as one shaded cell; a gap is unknown."""
        return _pick(self.shades, share)


UNICODE = Glyphs("…", "±", " · ", "─", "▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉█", "\u00d7", "·░▒▓█")
ASCII = Glyphs("..", "+-", ", ", "-", "_.:-=+*#", "#", "x", ".:-=+*#%@")


def _pick(scale: Sequence[str], share: float) -> str:
    return " " if math.isnan(share) else scale[step(share, len(scale))]


def step(share: float, steps: int) -> int:
    """Return on which of `steps` equal steps a share in [0, 1] lies, counted from 0."""
    return min(max(int(share * steps), 0), steps - 1)


def _mean(run: "np.ndarray") -> float:
    import numpy as np

    finite = run[np.isfinite(run)]
    return float(finite.mean()) if len(finite) else math.nan


def shares(values: Sequence[float]) -> list[float]:
    """Scale numbers to [0, 1], from their minimum to their maximum; NaN stays NaN."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = high - low
    return [math.nan if not math.isfinite(v) else (v - low) / span if span > 0 else 0.5 for v in values]


def logarithms(values: "ArrayLike") -> "np.ndarray":
    """Return log10 of the positive numbers, NaN for the others."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    return np.log10(numbers, out=np.full(numbers.shape, np.nan), where=numbers > 0)
