"""Inspects several revisions of a model, and follows its numbers over them."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from normscope._version import __version__
from normscope.analyses.compare import compare
from normscope.analyses.inspect import inspect
from normscope.data.media_files import FilePath, Inputs
from normscope.engine.provenance import weights_digest
from normscope.engine.stop import Stop
from normscope.errors import UsageError
from normscope.models.loading import Loaded, load
from normscope.models.location import Loading
from normscope.models.modality import TEXT
from normscope.results.compare import Comparison, Drift
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import provenance_now
from normscope.results.trajectory import LayerPoint, PointExtreme, PointExtremes, RevisionPoint, Trajectory

_UNKNOWN = Drift(math.nan, math.nan)


def trajectory(
    model: str | os.PathLike[str],
    revisions: Sequence[str],
    texts: Iterable[str] | None = None,
    *,
    images: Sequence[FilePath] = (),
    audio: Sequence[FilePath] = (),
    loading: Loading = Loading(),
    stop: Stop | None = None,
    **options: Any,
) -> Trajectory:
    """Inspect revisions of a model on the same inputs, and return how the numbers move over them.

    `model` is a Hub id, `revisions` are branches, tags or commits of it, in their order. The inputs and the
    `options` (`batching`, `layers`, `exclude`, `per_call`, `words`, `curve`, `table_memory`, `progress`) are
    those of `inspect`. Texts that can be read only once, as from a generator, are kept in memory. The
    revisions are loaded one after the other; after `stop` is asked, the one that runs is the last.

    Raises UsageError without a list of revisions, and the errors of `inspect`.
    """
    if isinstance(revisions, str) or not revisions:
        raise UsageError(f"revisions is {revisions!r}; expected names of revisions; put them in a list")
    texts = [*texts] if isinstance(texts, Iterator) else texts

    def run(loaded: Loaded) -> Report:
        return inspect(loaded, texts, images=images, audio=audio, stop=stop, **options)

    kinds = Inputs(texts, images, audio).kinds
    return follow(model, revisions, run, loading=loading, kinds=kinds, stop=stop)


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
        layers.append(LayerPoint(name, {"feature": _agreement(layer)}, _largest(layer), bn, ln))
    return RevisionPoint(
        revision=report.model.revision or "",
        commit=report.model.commit,
        weights_sha256=digest,
        same_weights_as=same_weights_as,
        agreement={"feature": _median(layer.agreement["feature"] for layer in layers)},
        extremes=_median_largest([layer.extremes for layer in layers]),
        bn_drift=_median_drift([layer.bn_drift for layer in layers]),
        ln_drift=_median_drift([layer.ln_drift for layer in layers]),
        layers=tuple(layers),
    )


def _agreement(layer: LayerReport) -> float:
    return (layer.agreement or {}).get("feature", math.nan)


def _largest(layer: LayerReport) -> PointExtremes:
    sizes = layer.extremes
    if sizes is None:
        return PointExtremes(PointExtreme(math.nan))
    output = None if sizes.output is None else PointExtreme(sizes.output.value)
    return PointExtremes(PointExtreme(sizes.input.value), output, sizes.headroom)


def _median_largest(layers: Sequence[PointExtremes]) -> PointExtremes:
    outputs = [layer.output.value for layer in layers if layer.output]
    return PointExtremes(
        PointExtreme(_median(layer.input.value for layer in layers)),
        PointExtreme(_median(outputs)) if outputs else None,
        _median(layer.headroom for layer in layers),
    )


def _median_drift(drifts: Sequence[Drift]) -> Drift:
    return Drift(_median(drift.mean for drift in drifts), _median(drift.variance for drift in drifts))


def _median(values: Iterable[float]) -> float:
    """Return the median of the values that are known, NaN without any."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


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
