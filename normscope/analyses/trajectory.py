"""Inspects several revisions of a model, and follows its numbers over them."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from normscope._version import __version__
from normscope.analyses.compare import compare
from normscope.engine.provenance import weights_digest
from normscope.engine.stop import Stop
from normscope.models.loading import Loaded, load
from normscope.models.location import Loading
from normscope.models.modality import TEXT
from normscope.results.compare import Comparison, Drift
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import provenance_now
from normscope.results.trajectory import InputExtremes, LargestInput, LayerPoint, RevisionPoint, Trajectory

_UNKNOWN = Drift(float("nan"), float("nan"))


def follow(
    model: str | os.PathLike[str],
    revisions: Sequence[str],
    run: Callable[[Loaded], Report],
    *,
    loading: Loading = Loading(),
    kinds: Collection[str] = (TEXT,),
    stop: Stop | None = None,
) -> Trajectory:
    """Return a report of each of a model's revisions, and how the numbers move over them.

    `run` inspects a revision that is loaded, such as `lambda loaded: inspect(loaded, texts)`; it needs the
    same texts each time. The revisions are loaded one after the other, so one of them is in memory. After
    `stop` is asked, the revision that runs is the last. Raises the errors of `load`, `run` and `compare`.
    """
    measured: list[tuple[Report, str | None]] = []
    for revision in revisions:
        measured.append(_measure(model, replace(loading, revision=revision), kinds, run))
        if stop is not None and stop.asked:
            break
    left = revisions[len(measured) :]
    notes = [f"the run was interrupted: revisions not measured are {', '.join(left)}"] if left else []
    return _trajectory([report for report, _ in measured], [digest for _, digest in measured], notes)


def _measure(
    model: str | os.PathLike[str], loading: Loading, kinds: Collection[str], run: Callable[[Loaded], Report]
) -> tuple[Report, str | None]:
    """Return the report and the weights' digest of one revision; the model is dropped."""
    loaded = load(model, loading, kinds)
    return run(loaded), weights_digest(loaded.model)


def _trajectory(reports: Sequence[Report], digests: Sequence[str | None], notes: Iterable[str]) -> Trajectory:
    comparisons = [compare(reports[0], report) for report in reports]
    names = [report.model.revision or "" for report in reports]
    same = [
        None if digest is None or digests.index(digest) == i else names[digests.index(digest)]
        for i, digest in enumerate(digests)
    ]
    points = tuple(map(_point, reports, comparisons, digests, same))
    return Trajectory(
        __version__,
        points,
        (*notes, *_warnings(points, reports, comparisons)),
        tuple(reports),
        provenance_now(),
    )


def _point(
    report: Report, comparison: Comparison, digest: str | None, same_weights_as: str | None
) -> RevisionPoint:
    drifts = {drift.other: drift for drift in comparison.layers.values()}
    layers = []
    for name, layer in report.layers.items():
        drift = drifts.get(name)
        bn, ln = (drift.bn_drift, drift.ln_drift) if drift else (_UNKNOWN, _UNKNOWN)
        layers.append(LayerPoint(name, {"feature": _agreement(layer)}, _extremes(_largest(layer)), bn, ln))
    return RevisionPoint(
        revision=report.model.revision or "",
        commit=report.model.commit,
        weights_sha256=digest,
        same_weights_as=same_weights_as,
        agreement={"feature": _median(layer.agreement["feature"] for layer in layers)},
        extremes=_extremes(_median(layer.extremes.input.value for layer in layers)),
        bn_drift=_median_drift([layer.bn_drift for layer in layers]),
        ln_drift=_median_drift([layer.ln_drift for layer in layers]),
        layers=tuple(layers),
    )


def _agreement(layer: LayerReport) -> float:
    return (layer.agreement or {}).get("feature", float("nan"))


def _largest(layer: LayerReport) -> float:
    return layer.extremes.input.value if layer.extremes else float("nan")


def _extremes(largest: float) -> InputExtremes:
    return InputExtremes(LargestInput(largest))


def _median_drift(drifts: Sequence[Drift]) -> Drift:
    return Drift(_median(drift.mean for drift in drifts), _median(drift.variance for drift in drifts))


def _median(values: Iterable[float]) -> float:
    """Return the median of the values that are known, NaN without any."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")


def _warnings(
    points: Sequence[RevisionPoint], reports: Sequence[Report], comparisons: Sequence[Comparison]
) -> Iterator[str]:
    for point in points:
        if point.same_weights_as is not None:
            yield f"the weights of {point.revision} equal those of {point.same_weights_as}, bit by bit"
    for point, report, comparison in zip(points, reports, comparisons, strict=True):
        yield from (f"{point.revision}: {warning}" for warning in report.warnings)
        # A is the first revision, B this one.
        yield from (f"{points[0].revision} (A) and {point.revision} (B): {w}" for w in comparison.warnings)
