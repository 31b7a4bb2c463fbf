"""Result of `inspect` on several revisions of a model: a report of each, and a trajectory over them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from normscope.errors import ReportError
from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.compare import Drift
from normscope.results.inspect import Report
from normscope.results.json_codec import NOT_IN_JSON
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class PointExtreme(Record):
    """The largest |value|; NaN where it is unknown."""

    value: float


@dataclass(frozen=True, eq=False)
class PointExtremes(Record):
    """The largest values of a layer's input and output, and float16's headroom above both.

    `output` is None and `headroom` NaN in trajectories of earlier versions.
    """

    input: PointExtreme
    output: PointExtreme | None = None
    headroom: float = math.nan


@dataclass(frozen=True, eq=False)
class LayerPoint(Record):
    """One layer at one revision.

    `agreement` (view `feature`) and `extremes` are the layer's own, the drifts are against the first
    revision, as `compare` defines them.
    """

    name: str
    agreement: Mapping[str, float]
    extremes: PointExtremes
    bn_drift: Drift
    ln_drift: Drift


@dataclass(frozen=True, eq=False)
class RevisionPoint(Record):
    """One revision of a model: medians over its layers, and the layers.

    `weights_sha256` is the SHA-256 of the names, dtypes, shapes and elements of all weights and buffers;
    None if some are not in memory. `same_weights_as` is the first revision before it whose weights are
    equal, None without one.
    """

    revision: str
    commit: str | None
    weights_sha256: str | None
    same_weights_as: str | None
    agreement: Mapping[str, float]
    extremes: PointExtremes
    bn_drift: Drift
    ln_drift: Drift
    layers: tuple[LayerPoint, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory(Result, Shown, Tabular):
    """Revisions of one model, in the order in which they were named.

    `reports` has the report of each revision. In JSON each is what `inspect --json` writes of it.
    """

    SCHEMA = "normscope.trajectory/1"
    EXPECTED = "a trajectory"
    WHERE = "trajectory"

    normscope: str
    points: tuple[RevisionPoint, ...]
    warnings: tuple[str, ...]
    reports: tuple[Report, ...] = field(default=(), metadata=NOT_IN_JSON)
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        return f"<Trajectory over {counted(len(self.points), 'revision')}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the trajectory and its reports as plain JSON values."""
        return {**super().to_dict(), "reports": [report.to_dict() for report in self.reports]}

    @classmethod
    def from_dict(cls, data: Any) -> "Trajectory":
        """Build a trajectory from what `to_dict` returns; ReportError says what does not fit."""
        trajectory = super().from_dict(data)
        reports = data.get("reports")
        if not isinstance(reports, list) or not reports or len(reports) != len(trajectory.points):
            raise ReportError("trajectory.reports does not have a report of each of its points; expected one")
        return replace(trajectory, reports=tuple(map(Report.from_dict, reports)))
