"""Compiled loops (numba): one pass over a layer's input and output.

PyTorch's operators read each element some 30 times. Here it is read twice: once for the moments of its
row, and once for all sums, while the row is in the processor's nearest cache. The loops are compiled once
for each dtype, at the first call, and stored next to this file or in the user's cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

Loops = TypeVar("Loops", bound=Callable[..., object])


def compiled(loops: Loops) -> Loops:
    """Compile a function at its first call; sums may be computed in any order, and NaN stays NaN."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz", "contract"}}
    compile: Callable[..., Any] = partial(numba.njit, **options)
    try:
        jitted: Loops = compile(loops, cache=True)
    except RuntimeError:  # There is no writable cache.
        jitted = compile(loops)
    return jitted


# Numba's caches on disk name these classes: a renamed class makes the cache of an earlier version unreadable.
class Way(NamedTuple):
    """The formula of a layer's output for rows x: y weight + bias, with `weight` and `bias` (D,).

    y is (x - mean) / sqrt(variance + eps) or, if not `centred`, x / sqrt(mean square + eps).
    """

    centred: bool
    eps: float
    weight: np.ndarray
    bias: np.ndarray


class CellBuffers(NamedTuple):
    """Buffers for the sums of rows x and y over cells (G, D).

    `group` (V,) is the cell of each row, and `member` (G,) is the number of one row in each cell. `sums`
    (4, G, D) are the sums of x - pivot, (x - pivot)^2, y and (x - pivot) y, around the `pivot` (G, D).
    """

    group: np.ndarray
    member: np.ndarray
    pivot: np.ndarray
    sums: np.ndarray


class Samples(NamedTuple):
    """The samples of a batch, with `rows` (B, 1) rows each, and their summary: batch_summary.SampleSummary.

    `mean` and `variance` (B, D) are work buffers. `eps` is the eps of the normalization by sample.
    """

    eps: float
    rows: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    spread: np.ndarray
    likeness: np.ndarray
    sequence: np.ndarray
    within: np.ndarray


class OutputBuffers(NamedTuple):
    """Buffers for the statistics by feature of x, y and a layer's output `out`, (D,) each.

    `moved` and `square` are the sums of y - pivot and of its square. `worst` is the maximum of
    |y weight + bias - out|, `largest` the maximum of |out|, and `large` how often |out| reaches `limit`.
    `peak` is the maximum of |x|.
    """

    limit: float
    pivot: np.ndarray
    moved: np.ndarray
    square: np.ndarray
    worst: np.ndarray
    largest: np.ndarray
    large: np.ndarray
    peak: np.ndarray


@compiled
def _row_moments(x: np.ndarray, index: np.ndarray, token: np.ndarray) -> tuple[bool, float]:
    """Write the mean and biased variance of the rows `index` (V,) of x (R, D) into `token` (V, 2).

    Returns whether all are finite, and an upper bound on |x|: no element is further from the mean of its
    row than the norm of (row - mean).
    """
    features, finite, reach = x.shape[1], True, 0.0
    for r in range(len(index)):
        row = x[index[r]]
        total, square = 0.0, 0.0
        for d in range(features):
            total += np.float64(row[d])
        token[r, 0] = total / features
        mean = token[r, 0]
        for d in range(features):
            square += np.float64((row[d] - mean) * (row[d] - mean))
        token[r, 1] = square / features
        finite &= np.isfinite(token[r, 1])
        reach = max(reach, abs(np.float64(mean)) + np.sqrt(square))
    return finite, reach


@compiled
def begin(cells: CellBuffers, x: np.ndarray, index: np.ndarray) -> None:
    """Clear the sums, and copy each cell's member as its pivot."""
    cells.sums[:] = 0
    for g in range(len(cells.member)):
        cells.pivot[g] = x[index[cells.member[g]]]


@compiled
def _add_cell(x: np.ndarray, y: np.ndarray, cells: CellBuffers, cell: int) -> None:
    """Add one row x and its y (D,) to the sums of its cell."""
    pivot, sums = cells.pivot[cell], cells.sums
    first, square, second, both = sums[0, cell], sums[1, cell], sums[2, cell], sums[3, cell]
    for d in range(len(x)):
        deviation = x[d] - pivot[d]
        first[d] += deviation
        square[d] += deviation * deviation
        second[d] += y[d]
        both[d] += deviation * y[d]


@compiled
def add_output(x: np.ndarray, y: np.ndarray, formula: Way, out: np.ndarray, buffers: OutputBuffers) -> float:
    """Add one row x, its y and the layer's output (D,) to `buffers`; return the sum of out^2."""
    pivot, moved, squares, worst = buffers.pivot, buffers.moved, buffers.square, buffers.worst
    largest, large, limit = buffers.largest, buffers.large, out.dtype.type(buffers.limit)
    weight, bias, peak, square = formula.weight, formula.bias, buffers.peak, 0.0
    for d in range(len(y)):
        deviation = np.float64(y[d] - pivot[d])
        moved[d] += deviation
        squares[d] += deviation * deviation
    for d in range(len(y)):
        worst[d] = max(worst[d], abs(y[d] * weight[d] + bias[d] - out[d]))
        peak[d] = max(peak[d], abs(x[d]))
    for d in range(len(y)):
        square += np.float64(out[d] * out[d])
    for d in range(len(y)):
        size = abs(out[d])
        largest[d] = max(largest[d], size)
        large[d] += np.int32(size >= limit)
    return square


@compiled
def _add_rows(
    x: np.ndarray,
    out: np.ndarray,
    index: np.ndarray,
    token: np.ndarray,
    formula: Way,
    position: CellBuffers,
    sample: CellBuffers,
    buffers: OutputBuffers,
) -> float:
    """Sum the rows `index` (V,) of x and out (R, D) into all buffers; return the sum of out^2."""
    begin(position, x, index)
    begin(sample, x, index)
    buffers.moved[:], buffers.square[:], buffers.worst[:] = 0, 0, 0
    buffers.largest[:], buffers.large[:], buffers.peak[:] = 0, 0, 0
    y, square = np.empty(x.shape[1], x.dtype), 0.0
    # The middle row comes first: its y is the pivot for the y of all rows.
    for turn in range(-1, len(index)):
        r = len(index) // 2 if turn < 0 else turn
        row = x[index[r]]
        mean, variance = np.float64(token[r, 0]), np.float64(token[r, 1])
        power = variance if formula.centred else variance + mean * mean
        centre = x.dtype.type(mean if formula.centred else 0.0)
        scale = x.dtype.type(1 / np.sqrt(power + formula.eps))
        for d in range(len(y)):
            y[d] = (row[d] - centre) * scale
        if turn < 0:
            buffers.pivot[:] = y
            continue
        _add_cell(row, y, position, position.group[r])
        _add_cell(row, y, sample, sample.group[r])
        square += add_output(row, y, formula, out[index[r]], buffers)
    return square


@compiled
def move(
    own_count: np.ndarray,
    own: np.ndarray,
    new: np.ndarray,
    pivot: np.ndarray,
    sums: np.ndarray,
    count: np.ndarray,
) -> None:
    """Add the sums `new` (2 or 4, G, D) to the first cells of `sums`, which are around `pivot` p.

    `new` is over `own_count` (G, 1) rows, around the pivots `own` q (G, D).
    sum (x - p)^2 = sum (x - q)^2 + 2 (q - p) sum (x - q) + n (q - p)^2; the products likewise.
    """
    for g in range(len(own)):
        rows = own_count[g, 0]
        count[g, 0] += rows
        if rows == 0:
            continue
        for d in range(pivot.shape[1]):
            offset = own[g, d] - pivot[g, d]
            shift = rows * offset
            sums[0, g, d] += new[0, g, d] + shift
            sums[1, g, d] += new[1, g, d] + offset * (2.0 * new[0, g, d] + shift)
        if len(sums) == 4:
            for d in range(pivot.shape[1]):
                sums[2, g, d] += new[2, g, d]
                sums[3, g, d] += new[3, g, d] + (own[g, d] - pivot[g, d]) * new[2, g, d]


@compiled
def spread(values: np.ndarray, summary: np.ndarray) -> None:
    """Write the mean of all values, the sum of squares around it, the minimum and the maximum."""
    total, square, low, high = 0.0, 0.0, np.inf, -np.inf
    for value in values.flat:
        total += value
        low, high = min(low, value), max(high, value)
    mean = total / values.size
    for value in values.flat:
        square += (value - mean) * (value - mean)
    summary[0], summary[1], summary[2], summary[3] = mean, square, low, high


@compiled
def _sum_up(cells: CellBuffers, buffers: Samples) -> None:
    """Summarise the cells (B, D) of the samples of a batch in `buffers`."""
    features, pivot, sums, eps = cells.pivot.shape[1], cells.pivot, cells.sums, buffers.eps
    mean, variance, sequence = buffers.mean, buffers.variance, buffers.sequence
    mean_y, covariance = np.empty(features), np.empty(features)
    product, square = 0.0, 0.0
    buffers.within[:] = 0.0
    for b in range(len(pivot)):
        count = buffers.rows[b, 0]
        share, total = 1 / count, 0.0
        for d in range(features):
            deviation = sums[0, b, d] * share
            mean[b, d] = pivot[b, d] + deviation
            variance[b, d] = max(sums[1, b, d] * share - deviation * deviation, 0.0)
            mean_y[d] = sums[2, b, d] * share
            covariance[d] = sums[3, b, d] * share - deviation * mean_y[d]
            total += mean[b, d]
        for d in range(features):
            buffers.within[0, d] += count * variance[b, d]
        for d in range(features):
            scale = 1 / np.sqrt(variance[b, d] + eps) if variance[b, d] + eps > 0 else 0.0
            product += count * scale * covariance[d]
            square += count * scale * scale * variance[b, d]
        middle, deviation_square, covariance_sum = total / features, 0.0, 0.0
        for d in range(features):
            deviation = mean[b, d] - middle
            deviation_square += variance[b, d] + deviation * deviation
            covariance_sum += covariance[d] + deviation * mean_y[d]
        sequence[b, 0], sequence[b, 1] = count, middle
        sequence[b, 2], sequence[b, 3] = deviation_square / features, covariance_sum / features
    buffers.likeness[0], buffers.likeness[1] = product, square
    spread(mean, buffers.spread[0])
    spread(variance, buffers.spread[1])


@compiled
def _massive_samples(
    x: np.ndarray, index: np.ndarray, group: np.ndarray, count: np.ndarray, limit: float, medians: float
) -> np.ndarray:
    """Return whether each sample, of `count` (B, 1) rows of x, may have a massive element, (B,) bool.

    A sample may have one if its maximum |x| is above `limit`, and at least half of its |x| are no larger
    than that maximum divided by `medians`.
    """
    peak, below, massive = np.zeros(len(count)), np.zeros(len(count)), np.zeros(len(count), np.bool_)
    size = np.empty(x.shape[1], x.dtype)
    for r in range(len(index)):
        row, g = x[index[r]], group[r]
        for d in range(len(row)):
            size[d] = abs(row[d])
        peak[g] = max(peak[g], np.float64(size.max()))
    for r in range(len(index)):
        if peak[group[r]] > limit:
            row, bar, small = x[index[r]], peak[group[r]] / medians, 0
            for d in range(len(row)):
                small += np.int32(abs(row[d]) <= bar)
            below[group[r]] += small
    for g in range(len(count)):
        massive[g] = peak[g] > limit and 2 * below[g] >= count[g, 0] * x.shape[1]
    return massive


@compiled
def sum_call(
    x: np.ndarray,
    out: np.ndarray,
    index: np.ndarray,
    token: np.ndarray,
    formula: Way,
    position: CellBuffers,
    sample: CellBuffers,
    samples: Samples,
    buffers: OutputBuffers,
    massive: float,
    medians: float,
) -> tuple[bool, np.ndarray, float, float]:
    """Sum the rows `index` (V,) of x and out (R, D) into all buffers, and their moments into `token` (V, 2).

    Returns whether all are finite, which samples may have `massive` elements (empty, or (B,) bool), the
    maximum gap between out and the output that `formula` gives, and the sum of out^2. The buffers are valid
    only if all are finite.
    """
    finite, reach = _row_moments(x, index, token)
    suspects = np.zeros(0, np.bool_)
    if not finite:
        return False, suspects, 0.0, 0.0
    square = _add_rows(x, out, index, token, formula, position, sample, buffers)
    _sum_up(sample, samples)
    if reach > 0.99 * massive:
        suspects = _massive_samples(x, index, sample.group, samples.rows, massive, medians)
    return np.isfinite(square), suspects, np.float64(buffers.worst.max()), square
