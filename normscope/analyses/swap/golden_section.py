"""Minimum of a smooth function of two numbers that is known on a small grid.

The function is interpolated by the polynomial through all points of the grid, and its minimum is found by
golden section (Kiefer 1953, "Sequential Minimax Search for a Maximum", Proceedings of the AMS 4(3)).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 40  # The interval shrinks to 4e-9 of its length.


def minimise(rows: Sequence[float], columns: Sequence[float], table: Tensor) -> tuple[float, float]:
    """Return the two numbers at the minimum, from the values `table` (R, C) at `rows` and `columns`.

    The minimum is looked for around the smallest value of the table, as far as the points beside it.
    """
    row, column = divmod(int(table.argmin()), len(columns))

    def best_column(at: float) -> tuple[float, float]:
        values = _weights(rows, at) @ table.double()  # (C,)
        return golden_section(lambda c: float(_weights(columns, c) @ values), *_around(columns, column))

    at, _ = golden_section(lambda at: best_column(at)[1], *_around(rows, row))
    return at, best_column(at)[0]


def golden_section(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Return the place and the value of the minimum of a function with one minimum in [low, high]."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(_STEPS if high > low else 0):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = function(b)
    return min((a, at_a), (b, at_b), key=lambda pair: pair[1])


def _around(points: Sequence[float], index: int) -> tuple[float, float]:
    return points[max(0, index - 1)], points[min(len(points) - 1, index + 1)]


def _weights(points: Sequence[float], at: float) -> Tensor:
    """Return the weights (N,) of the values at N points in the value of their polynomial at another place."""
    weights = [
        math.prod((at - other) / (point - other) for j, other in enumerate(points) if j != i)
        for i, point in enumerate(points)
    ]
    return torch.tensor(weights, dtype=torch.float64)
