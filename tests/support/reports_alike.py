"""Whether two results are the same: counts and words exactly, other numbers up to rounding."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

# The time it took, how texts were put into batches, and the few texts shown, are a run's own.
OWN = ("pooled", "seconds", "batches", "padding_share", "batch_size", "calls", "repeated_texts")


def furthest(one: Any, other: Any, without: tuple[str, ...] = ("seconds",)) -> float:
    """Return the largest gap between two plain values, relative to the largest number of its array."""
    return max(_gaps(one, other, without, "report"), default=0.0)


def _gaps(one: Any, other: Any, without: tuple[str, ...], where: str) -> Iterator[float]:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"provenance", *without}:
            yield from _gaps(one[key], other[key], without, f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        if one and all(isinstance(value, float) for value in (*one, *other)):
            apart = np.abs(np.subtract(one, other)).max()
            yield float(apart / max(np.abs(one).max(), 1e-300)) if apart else 0.0
        else:
            for i, (a, b) in enumerate(zip(one, other, strict=True)):
                yield from _gaps(a, b, without, f"{where}[{i}]")
    elif isinstance(one, float) and isinstance(other, float):
        # Not below 1e-3: differences of large numbers, such as a mean that is nearly 0.
        yield 0.0 if one == other else abs(one - other) / max(abs(one), 1e-3)
        assert math.isfinite(one) == math.isfinite(other), where
    else:
        assert one == other, (where, one, other)
