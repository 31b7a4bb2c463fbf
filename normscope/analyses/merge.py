"""Merges reports on the parts of one corpus into the exact report on the whole corpus."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from normscope._version import __version__
from normscope.analyses.depth import merge_depth
from normscope.capture.layer_summary import fill, notes_on, pooling_notes
from normscope.data.corpus import notes_on_left_out, notes_on_texts
from normscope.data.shards import missing
from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.results.common import LeftOut, RunInfo
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import Provenance, provenance_now
from normscope.statistics.layer_state import LayerState, RunMoments, maximum_counts
from normscope.statistics.moments_file import read_moments, require_moments
from normscope.statistics.outliers import outlier_features

# Fields that must be equal in all parts: of the model, of the run, and of each layer that saw a token.
MODEL = ("id", "revision", "commit", "architecture", "dtype", "parameters")
RUN = ("special_tokens", "max_length", "medium", "selection")
LAYER = ("module", "kind", "features", "eps", "affine", "call")
# Fields of the run that are summed over parts; then those that are summed if all parts know them; then
# those that the result has only if they are equal in all parts.
_SUMS = ("texts", "tokens", "skipped_texts", "truncated_texts", "batches", "seconds")
_OPTIONAL_SUMS = ("unknown_tokens", "repeated_texts")
_COMMON = ("batch_size", "batch_tokens", "order")

# The parts of a layer's moments that are requested by an option.
_Requested = dict[str, int | None]


def merge(parts: Sequence[Report | str | os.PathLike[str]]) -> Report:
    """Return one report for several parts of a corpus, as if one run had measured them all.

    A part is a report that carries its moments, as `inspect(..., moments=True)` returns, or the path of
    a file that `write_moments` or `normscope inspect --moments` wrote; files are read one after the
    other. The result carries moments, too, and may be a part of another merge. Each part keeps its own
    batches, so `run.batches` and `run.padding_share` depend on the parts.

    Raises ReportError for a part that cannot be read or carries no moments. Raises UsageError when there
    are no parts, when a part is given twice, or when parts differ in the model, its layers, or the options
    that numbers depend on; the error names the first field that differs.
    """
    if isinstance(parts, str | os.PathLike | Report) or not parts:
        raise UsageError("merge came without a list of parts; expected one or more; put them in a list")
    _refuse_repeats(parts)
    total = _Total()
    for number, part in enumerate(parts, start=1):
        report = part if isinstance(part, Report) else read_moments(part)
        total.add(report, f"part {number}" if isinstance(part, Report) else quoted(part))
    return total.report()


def _refuse_repeats(parts: Sequence[Report | str | os.PathLike[str]]) -> None:
    keys: set[Any] = set()
    for part in parts:
        key = id(part) if isinstance(part, Report) else _real_path(part)
        if key in keys:
            name = "a report" if isinstance(part, Report) else quoted(part)
            raise UsageError(f"{name} was given twice; expected each part once; drop one")
        keys.add(key)


def _real_path(path: str | os.PathLike[str]) -> str:
    """Return the real path of a file; an invalid path is returned unchanged, and its reader reports it."""
    try:
        return os.path.realpath(path)
    except ValueError:  # The path has a NUL.
        return os.fspath(path)


class _Total:
    """The parts so far: their merged moments, and each part's report without its moments."""

    def __init__(self) -> None:
        self._moments = RunMoments({}, 0)
        self._reports: list[Report] = []
        self._slots: list[int] = []
        self._warnings: dict[str, None] = {}
        self._layers: dict[str, LayerReport] = {}
        """The description of each layer, from the first part in which it saw a token."""
        self._requested: dict[str, _Requested] = {}
        self._first = ""
        self._names: dict[str, str] = {}
        """The name of each part that came from a file, by the digest of the file."""
        self._empty = True
        """Whether no part has called a layer yet; the layers of such parts are not compared to others."""

    def add(self, report: Report, name: str) -> None:
        """Add a part; messages call it by this name."""
        moments = require_moments(report, name)
        if moments.digest and moments.digest in self._names:
            raise UsageError(
                f"{name} holds what {self._names[moments.digest]} holds; expected each part once; drop one"
            )
        self._names[moments.digest] = name
        if self._reports:
            self._require_alike(report, moments, name)
        self._first = self._first or name
        warnings = (*_general_warnings(report, moments), *self._repeated_shards(moments, name))
        self._warnings.update(dict.fromkeys(warnings))
        if self._has_layers_to_add(report):
            self._add_layers(report, moments)
        else:
            self._moments.merge(RunMoments({}, moments.slots, moments.shards))
        self._reports.append(replace(report, moments=None))
        self._slots.append(moments.slots)

    def _has_layers_to_add(self, report: Report) -> bool:
        """Whether the layers of a part belong to the result; those of an empty part do if all are empty."""
        empty = not any(layer.calls for layer in report.layers.values())
        if self._empty and not empty:
            self._layers, self._moments.layers, self._requested = {}, {}, {}
        self._empty &= empty
        return not empty or self._empty

    def _repeated_shards(self, moments: RunMoments, name: str) -> list[str]:
        """Warn of shards that an earlier part already has: file names may hide this."""
        return [
            f"{name} is shard {shard}, as a part before it is: right only where their corpora differ"
            for shard in moments.shards
            if shard in self._moments.shards
        ]

    def _add_layers(self, report: Report, moments: RunMoments) -> None:
        for key, layer in report.layers.items():
            if key not in self._layers or (layer.count and not self._layers[key].count):
                self._layers[key] = layer
        self._requested.update(_requested(moments))
        self._moments.merge(moments)

    def _require_alike(self, new: Report, moments: RunMoments, name: str) -> None:
        for field, expected, got in self._shared_fields(new, moments):
            if repr(got) != repr(expected):  # Not `!=`: NaN is equal to NaN here.
                raise UsageError(
                    f"{name} has {field} {quoted(got)}; expected {quoted(expected)}, as in {self._first}; "
                    "merge parts of one model under one set of options"
                )

    def _shared_fields(self, new: Report, moments: RunMoments) -> Iterator[tuple[str, Any, Any]]:
        """Yield every field that parts must share, with its value in earlier parts and in `new`."""
        first = self._reports[0]
        yield from ((f"model.{f}", getattr(first.model, f), getattr(new.model, f)) for f in MODEL)
        yield from ((f"run.{f}", getattr(first.run, f), getattr(new.run, f)) for f in RUN)
        if self._empty or not any(layer.calls for layer in new.layers.values()):
            return
        yield "layers", *_first_difference(list(self._layers), list(new.layers))
        for name, layer in new.layers.items():
            old = self._layers[name]
            if layer.count and old.count:
                yield from ((f"{f} of {quoted(name)}", getattr(old, f), getattr(layer, f)) for f in LAYER)
        for name, seen in moments.layers.items():
            exact = self._moments.layers[name].exact
            if seen.calls and self._moments.layers[name].calls:
                yield f"positions that stand alone at {quoted(name)}", exact, seen.exact
        for name, parts in _requested(moments).items():
            before = self._requested.get(name, parts)
            yield from ((f"{f} of {quoted(name)}", before[f], parts[f]) for f in parts)

    def report(self) -> Report:
        """Return the report of all parts."""
        layers = {name: self._layer(name, seen) for name, seen in self._moments.layers.items()}
        run = self._run()
        notes = [
            *self._warnings,
            *notes_on_texts(run),
            *notes_on_left_out(run),
            *missing(self._moments.shards),
        ]
        notes += [note for name in layers for note in _notes(layers[name], self._moments.layers[name])]
        devices = dict.fromkeys(report.model.device for report in self._reports)
        return Report(
            __version__,
            replace(self._reports[0].model, device=" and ".join(devices)),
            run,
            layers,
            (*notes, *pooling_notes(layers.values())),
            outlier_features(layers.values()),
            self._moments,
            provenance=self._provenance(),
            depth=merge_depth(self._reports, layers),
        )

    def _provenance(self) -> Provenance:
        """Return the provenance of the merge; its texts have no order, so they have no digest."""
        parts = [report.provenance for report in self._reports]
        read = [None if part is None else part.texts_read for part in parts]
        weights = {None if part is None else part.weights_sample for part in parts}
        return replace(
            provenance_now(self._reports[0].model.commit),
            weights_sample=weights.pop() if len(weights) == 1 else None,
            texts_read=None if None in read else sum(number or 0 for number in read),
        )

    def _layer(self, name: str, seen: LayerState) -> LayerReport:
        described = self._layers[name]
        affine = described.outliers.affine_outliers if described.outliers else None
        calls = max(r.layers[name].calls_per_forward for r in self._reports if name in r.layers)
        return replace(fill(described, seen, affine), calls_per_forward=calls)

    def _run(self) -> RunInfo:
        runs = [report.run for report in self._reports]
        fields = {name: sum(getattr(run, name) for run in runs) for name in _SUMS}
        for name in _OPTIONAL_SUMS:
            values = [getattr(run, name) for run in runs]
            fields[name] = None if None in values else sum(values)
        fields["left_out"] = _left_out_of(runs)
        for name in _COMMON:
            fields[name] = getattr(runs[0], name) if len({getattr(run, name) for run in runs}) == 1 else None
        fields["positions"] = max(run.positions for run in runs)
        fields["position_bins"] = max((run.position_bins or () for run in runs), key=len) or None
        if not self._moments.slots:  # A run without token ids counts what its layers saw.
            seen = maximum_counts(self._moments.layers.values())
            fields["tokens"] = seen["tokens"]
            fields["texts"] = seen["texts"] if runs[0].order is None else fields["texts"]
        return replace(runs[0], **fields, padding_share=self._padding_share(runs))

    def _padding_share(self, runs: Sequence[RunInfo]) -> float:
        padding = sum(run.padding_share * n for run, n in zip(runs, self._slots, strict=True) if n)
        return padding / self._moments.slots if self._moments.slots else math.nan


def _left_out_of(runs: Sequence[RunInfo]) -> LeftOut | None:
    """Return the numbers of tokens that were left out of all runs; None if one does not have them."""
    counts = [vars(run.left_out) for run in runs if run.left_out is not None]
    if len(counts) < len(runs):
        return None
    return LeftOut(**{rule: sum(each[rule] for each in counts) for rule in counts[0]})


def _first_difference(old: list[str], new: list[str]) -> tuple[Any, Any]:
    """Return the first two names that differ between two lists, or else their lengths."""
    different = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
    return different[0] if different else (len(old), len(new))


def _requested(moments: RunMoments) -> dict[str, _Requested]:
    """Return the maximum number of token ids per layer, or None, and whether it has a curve."""
    measured = {name: seen.moments for name, seen in moments.layers.items() if seen.moments is not None}
    return {
        name: {"words": part.words.most if part.words else None, "curve": part.curve is not None}
        for name, part in measured.items()
    }


def _general_warnings(report: Report, moments: RunMoments) -> list[str]:
    """Return a report's warnings without those that the merged report writes again: on layers and shards."""
    layers = report.layers
    of_layers = {note for name in layers for note in _notes(layers[name], moments.layers[name])}
    of_run = {*notes_on_texts(report.run), *notes_on_left_out(report.run), *missing(moments.shards)}
    rewritten = {*of_layers, *of_run, *pooling_notes(layers.values())}
    return [note for note in report.warnings if note not in rewritten]


def _notes(layer: LayerReport, seen: LayerState) -> list[str]:
    return [f"{layer.name}: {note}" for note in notes_on(layer, seen)]
