"""Fits a squashing function to layers: y_d ~ gamma_d f(alpha x_d + shift) + beta_d, by least squares.

f is tanh, without a shift (Dynamic Tanh: Zhu et al. 2025, CVPR, arXiv 2503.10622), or erf (Derf: arXiv
2512.10938). alpha and shift are one number a layer each; the rest is ordinary least squares per feature.
"""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.analyses.swap.golden_section import minimise
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import DERF, DYT
from normscope.capture.observers import BatchRows
from normscope.capture.recorder import Recorder
from normscope.data.batching import Batches
from normscope.engine.session import Session
from normscope.statistics.layer_state import LayerState

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {DYT: torch.tanh, DERF: torch.erf}
# An element counts as saturated where the argument of the function is larger than this.
SATURATED = 2.0
# Where f varies by less than this, relative to its mean, its variance is rounding: f predicts nothing.
_RESOLUTION = 1e-6


class SearchGrid(NamedTuple):
    """The points of one run: alphas as multiples of the best so far, and shifts as distances from it."""

    octaves: Sequence[float]
    shifts: Sequence[float] = (0.0,)


# The first grid is wide, from nearly a line to nearly a sign; each later one is around the best point so far.
_WIDE = SearchGrid(range(-14, 7))
_GRIDS = {
    DYT: (_WIDE, SearchGrid([k / 4 for k in range(-4, 5)])),
    DERF: (
        _WIDE,
        SearchGrid([k / 3 for k in range(-3, 4)], [0.4 * k for k in range(-3, 4)]),
        SearchGrid([k / 12 for k in range(-2, 3)], [0.1 * k for k in range(-2, 3)]),
    ),
}
# Besides the calibration, one run for each grid, and one for the exact sums at the best point.
RUNS = {kind: len(grids) + 1 for kind, grids in _GRIDS.items()}


@dataclass(frozen=True)
class Squash:
    """The fit of one layer: alpha and shift, gamma and beta (D,) float64, R^2 and the saturated share."""

    alpha: float
    shift: float
    gamma: Tensor
    beta: Tensor
    r2: float
    saturated: float

    def added_to(self, statistics: Statistics, kind: str) -> Statistics:
        """Return statistics that also have what the kind of replacement needs."""
        alpha, shift = (torch.tensor(value, dtype=torch.float64) for value in (self.alpha, self.shift))
        parts = {"alpha": alpha, "gamma": self.gamma, "beta": self.beta}
        parts |= {"shift": shift} if kind == DERF else {}
        return replace(statistics, **{f"{kind}_{name}": value for name, value in parts.items()})


class SquashSums:
    """Sums over a layer's rows for the least squares at each of K points, (K, 2): alpha and shift.

    Values are summed as distances from f at the feature's mean, so that a mean far from 0 costs no digits.
    Memory is 3 K D numbers, whatever the number of rows. The `precise` sums of one point, in float64, also
    count saturated elements.
    """

    def __init__(self, kind: str, points: Tensor, statistics: Statistics, *, precise: bool) -> None:
        self._function, self._points, self._precise = FUNCTIONS[kind], points, precise
        mean = statistics.known()["mean"]
        self._centres = self._function(points[:, :1] * mean + points[:, 1:])  # (K, D)
        self._sums = torch.zeros(len(points), 3, len(mean), dtype=torch.float64)  # f, f^2, f y
        self._output = torch.zeros(2, len(mean), dtype=torch.float64)  # y, y^2
        self._rows = self._saturated = 0

    def observe(self, batch: BatchRows, _state: LayerState, /) -> None:
        """Add the rows of a batch."""
        x, y = (v.double() if self._precise else v for v in (batch.rows.x, batch.y))  # (V, D)
        sums = []
        for (alpha, shift), centre in zip(self._points.tolist(), self._centres, strict=True):
            argument = (x * alpha).add_(shift)
            if self._precise:
                self._saturated += int((argument.abs() > SATURATED).sum())
            f = self._function(argument).sub_(centre.to(x.dtype).to(x.device))
            sums.append(torch.stack([f.sum(0), (f * f).sum(0), (f * y).sum(0)]))
        self._sums += torch.stack(sums).cpu()
        self._output += torch.stack([y.sum(0), (y * y).sum(0)]).cpu()
        self._rows += len(x)

    def errors(self) -> Tensor:
        """Return SSE / SST over all features at each point, (K,)."""
        total, slope, covariance = self._products()
        # Where f hardly varies, its products are rounding errors: they explain at most all of y.
        explained = torch.minimum(slope * covariance, total)
        return 1 - explained.sum(1) / total.sum()

    def fit(self) -> Squash:
        """Return the fit at the only point."""
        (alpha, shift), (_, slope, _) = self._points[0].tolist(), self._products()
        mean_f = self._centres[0] + self._sums[0, 0] / self._rows
        beta = self._output[0] / self._rows - slope[0] * mean_f
        saturated = self._saturated / (self._rows * len(beta))
        return Squash(alpha, shift, slope[0], beta, 1 - float(self.errors()[0]), saturated)

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the centred sum of y^2 (D,), the slope of y on f, and their centred product, (K, D)."""
        f, ff, fy = self._sums.unbind(1)
        y, yy = self._output
        square, covariance = ff - f.square() / self._rows, fy - f * y / self._rows
        varies = square > self._rows * (_RESOLUTION * self._centres).square()
        return yy - y.square() / self._rows, covariance / square.where(varies, torch.inf), covariance


def fit_layers(
    session: Session, batches: Batches, kind: str, layers: Mapping[str, Statistics]
) -> dict[str, Squash]:
    """Fit a kind of SQUASHING to layers with known statistics, in RUNS runs over the same batches.

    `batches` must be kept, so that they can run again.
    """
    best = {name: (float(statistics.known()["scale"]), 0.0) for name, statistics in layers.items()}
    for grid in _GRIDS[kind]:
        points = {name: _points(grid, *centre) for name, centre in best.items()}
        sums = _run(session, batches, kind, layers, points)
        best = {name: _best(grid, points[name], one.errors()) for name, one in sums.items()}
    exact = {name: torch.tensor([centre], dtype=torch.float64) for name, centre in best.items()}
    sums = _run(session, batches, kind, layers, exact, precise=True)
    return {name: one.fit() for name, one in sums.items()}


def _points(grid: SearchGrid, alpha: float, shift: float) -> Tensor:
    """Return the points of a grid around a point, (octaves * shifts, 2)."""
    pairs = [(alpha * 2.0**octave, shift + step) for octave in grid.octaves for step in grid.shifts]
    return torch.tensor(pairs, dtype=torch.float64)


def _best(grid: SearchGrid, points: Tensor, errors: Tensor) -> tuple[float, float]:
    """Return the point of the smallest error: one of the wide grid, or between those of a narrow one."""
    if grid is _WIDE:
        alpha, shift = points[errors.argmin()].tolist()
        return alpha, shift
    table = errors.reshape(len(grid.octaves), len(grid.shifts))
    octave, step = minimise(grid.octaves, grid.shifts, table)
    middle = points[len(points) // 2]
    return float(middle[0]) * 2.0**octave, float(middle[1]) + step


def _run(
    session: Session,
    batches: Batches,
    kind: str,
    layers: Mapping[str, Statistics],
    points: Mapping[str, Tensor],
    *,
    precise: bool = False,
) -> dict[str, SquashSums]:
    """Run the batches once, and return the sums of each layer at its points."""
    sums = {n: SquashSums(kind, points[n], statistics, precise=precise) for n, statistics in layers.items()}
    recorder = Recorder(session.loaded.model, layers=[glob.escape(name) for name in layers])
    for capture in recorder.captures:
        capture.observers.append(sums[capture.norm.name])
    run = session.measure(recorder, batches).run
    session.clock.finish(run.texts, run.tokens)
    return sums
