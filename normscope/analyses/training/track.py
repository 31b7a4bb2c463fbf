"""Follows every layer over the windows of a training: how far it moved, and when."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from normscope._version import __version__
from normscope.analyses.compare import bn_distance, layer_drift
from normscope.errors import ReportError
from normscope.escaping import quoted
from normscope.results.inspect import LayerReport
from normscope.results.provenance import provenance_now
from normscope.results.track import LayerTrack, OverSteps, Track
from normscope.results.windows import WindowLine, read_windows

# Windows of a layer that stands still differ by the noise of batches alone, neighbours as much as distant
# ones: over many features a distance of twice their median does not come from noise.
_NOISES = 2.0


def track(path: str | os.PathLike[str]) -> Track:
    """Return how the layers of a training moved over the windows that `NormCallback(save=...)` wrote.

    The windows of training steps count; those of evaluations do where there are no others. For each layer,
    the drift of each window from the first is that of `compare`, and `moved_at` is the first step whose drift
    is over twice the median drift between neighbouring windows. Raises ReportError for a file that is not
    of windows.
    """
    courses: dict[str, dict[str, _Course]] = {}
    for line in read_windows(path):
        layers = courses.setdefault(line.split, {})
        layers.setdefault(line.layer.name, _Course()).add(line)
    if not courses:
        raise ReportError(f"{quoted(path)} has no window; expected one or more; train for more steps")
    split = "train" if "train" in courses else "eval"
    steps = sorted(set(chain.from_iterable(course.steps for course in courses[split].values())))
    tracks = [course.track(steps) for course in courses[split].values()]
    return Track(
        __version__,
        split,
        np.array(steps, dtype=np.int64),
        {layer.name: layer for layer in sorted(tracks, key=bn_distance, reverse=True)},
        tuple(_warnings(steps, courses[split])),
        provenance_now(),
    )


@dataclass
class _Course:
    """One layer's windows so far; only the first and the last report stay in memory."""

    first: LayerReport | None = None
    last: LayerReport | None = None
    numbers: dict[int, tuple[float, ...]] = field(default_factory=dict)
    distances: dict[int, float] = field(default_factory=dict)
    neighbours: list[float] = field(default_factory=list)

    @property
    def steps(self) -> Iterable[int]:
        """The steps of the windows in which the layer was called."""
        return self.numbers.keys()

    def add(self, line: WindowLine) -> None:
        layer = line.layer
        if not layer.count:
            return
        self.first = self.first or layer
        drift = layer_drift(self.first, layer)
        if self.last is not None:
            self.neighbours.append(bn_distance(layer_drift(self.last, layer)))
        self.distances[line.step] = bn_distance(drift)
        scalars = _scalars(layer)
        self.numbers[line.step] = (
            *(drift.bn_drift.mean, drift.bn_drift.variance, scalars["ln_variance"], scalars["bn_agreement"]),
            *(line.bn_gap.mean, line.bn_gap.variance, scalars["input_rms"], scalars["largest_input"]),
        )
        self.last = layer

    def track(self, steps: list[int]) -> LayerTrack:
        assert self.first is not None  # A course without a window has no steps.
        assert self.last is not None
        unknown = (math.nan,) * 8
        arrays = np.array([self.numbers.get(step, unknown) for step in steps]).T
        drift = layer_drift(self.first, self.last)
        return LayerTrack(**vars(drift), over_steps=OverSteps(*arrays), moved_at=self._moved_at())

    def _moved_at(self) -> int | None:
        if len(self.neighbours) < 2:
            return None
        bound = _NOISES * float(np.median(self.neighbours))
        return next((step for step, distance in self.distances.items() if distance > bound), None)


def _scalars(layer: LayerReport) -> dict[str, float]:
    """Return the numbers of `Window.scalars` that a report has."""
    everything = layer.global_
    return {
        "ln_variance": layer.token.variance.mean if layer.token else math.nan,
        "bn_agreement": layer.agreement["feature"] if layer.agreement else math.nan,
        "input_rms": math.sqrt(everything.mean**2 + everything.variance) if everything else math.nan,
        "largest_input": layer.extremes.input.value if layer.extremes else math.nan,
    }


def _warnings(steps: list[int], courses: Mapping[str, _Course]) -> Iterable[str]:
    if len(steps) < 3:
        yield f"{len(steps)} windows do not tell movement from noise; expected three or more"
    partial = [name for name, course in courses.items() if len(course.numbers) < len(steps)]
    if partial:
        more = f" and {len(partial) - 1} more" if len(partial) > 1 else ""
        yield f"{partial[0]}{more}: not in every window"
