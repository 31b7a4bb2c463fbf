"""Merges reports on the parts of one corpus into the exact report on the whole."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from normscope._version import __version__
from normscope.capture.layer_summary import fill, notes_on, pooling_notes
from normscope.data.corpus import notes_on_texts
from normscope.data.shards import missing
from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.results.common import RunInfo
from normscope.results.inspect import LayerReport, Report
from normscope.statistics.layer_state import LayerState, RunMoments, maximum_counts
from normscope.statistics.moments_file import read_moments, require_moments
from normscope.statistics.outliers import outlier_features

# What must be the same in all parts: of the model, of the run, and of each layer that saw a token.
MODEL = ("id", "revision", "commit", "architecture", "dtype", "parameters")
RUN = ("special_tokens", "max_length", "medium")
LAYER = ("module", "kind", "features", "eps", "affine", "call")
# What adds up over parts, and what is kept only where it is the same in all.
_SUMS = ("texts", "tokens", "skipped_texts", "truncated_texts", "batches", "seconds")
# What adds up where all parts know it.
_KNOWN_SUMS = ("unknown_tokens", "repeated_texts")
_KEPT = ("batch_size", "batch_tokens", "order")


def merge(parts: Sequence[Report | str | os.PathLike[str]]) -> Report:
    """Return the one report of several parts of a corpus, as if all had been run at once.

    A part is a report that carries its moments, as `inspect(..., moments=True)` returns, or the path of
    a file that `write_moments` or `normscope inspect --moments` wrote; files are read one after the
    other. The result carries moments, too, and may be a part again. How texts were put into batches
    is each part's own: so are `run.batches` and `run.padding_share`.

    Raises ReportError for a part that cannot be read or carries no moments, and UsageError when there
    is none, when one is given twice, or when parts differ in the model, its layers, or the options that
    numbers depend on: it names the first field that does.
    """
    if isinstance(parts, str | os.PathLike | Report) or not parts:
        raise UsageError("merge came without a list of parts; expected one or more; put them in a list")
    _refuse_twice(parts)
    total = _Total()
    for number, part in enumerate(parts, start=1):
        report = part if isinstance(part, Report) else read_moments(part)
        total.add(report, f"part {number}" if isinstance(part, Report) else quoted(part))
    return total.report()


def _refuse_twice(parts: Sequence[Report | str | os.PathLike[str]]) -> None:
    seen: set[Any] = set()
    for part in parts:
        key = id(part) if isinstance(part, Report) else _place(part)
        if key in seen:
            name = "a report" if isinstance(part, Report) else quoted(part)
            raise UsageError(f"{name} was given twice; expected each part once; drop one")
        seen.add(key)


def _place(path: str | os.PathLike[str]) -> str:
    """Return the real path of a file; an invalid path is returned as it is, and its reader reports it."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL in it
        return os.fspath(path)


class _Total:
    """The parts so far: their merged moments, and each part's report without its moments."""

    def __init__(self) -> None:
        self._moments = RunMoments({}, 0)
        self._reports: list[Report] = []
        self._slots: list[int] = []
        self._warnings: dict[str, None] = {}
        self._layers: dict[str, LayerReport] = {}
        """What each layer is, by the first part in which it saw a token."""
        self._words: dict[str, int | None] = {}
        self._first = ""
        self._names: dict[str, str] = {}
        """The name of each part that came from a file, by what the file's contents are known by."""
        self._empty = True
        """Whether no part has seen anything yet: then its layers are not what those of others are."""

    def add(self, report: Report, name: str) -> None:
        """Add a part, known by this name in messages."""
        moments = require_moments(report, name)
        if moments.digest and moments.digest in self._names:
            raise UsageError(
                f"{name} holds what {self._names[moments.digest]} holds; expected each part once; drop one"
            )
        self._names[moments.digest] = name
        if self._reports:
            self._require_alike(report, moments, name)
        self._first = self._first or name
        self._warnings.update(
            dict.fromkeys((*_general_warnings(report, moments), *self._twice(moments, name)))
        )
        if self._is_more(report):
            self._add_layers(report, moments)
        else:
            self._moments.merge(RunMoments({}, moments.slots, moments.shards))
        self._reports.append(replace(report, moments=None))
        self._slots.append(moments.slots)

    def _is_more(self, report: Report) -> bool:
        """Whether a part has layers to add: an empty part has none if another part is not empty."""
        empty = not any(layer.calls for layer in report.layers.values())
        if self._empty and not empty:
            self._layers, self._moments.layers, self._words = {}, {}, {}
        self._empty &= empty
        return not empty or self._empty

    def _twice(self, moments: RunMoments, name: str) -> list[str]:
        """Warn of shards that an earlier part already has: file names may hide this."""
        twice = [shard for shard in moments.shards if shard in self._moments.shards]
        return [
            f"{name} is shard {shard}, as a part before it is: right only where their corpora differ"
            for shard in twice
        ]

    def _add_layers(self, report: Report, moments: RunMoments) -> None:
        for key, layer in report.layers.items():
            if key not in self._layers or (layer.count and not self._layers[key].count):
                self._layers[key] = layer
        self._words.update(_words(moments))
        self._moments.merge(moments)

    def _require_alike(self, new: Report, moments: RunMoments, name: str) -> None:
        for field, expected, got in self._pairs(new, moments):
            if repr(got) != repr(expected):  # Both may be NaN.
                raise UsageError(
                    f"{name} has {field} {quoted(got)}; expected {quoted(expected)}, as in {self._first}; "
                    "merge parts of one model under one set of options"
                )

    def _pairs(self, new: Report, moments: RunMoments) -> Iterator[tuple[str, Any, Any]]:
        """Give every field that parts must share, with what it was so far and what it is in `new`."""
        first = self._reports[0]
        yield from ((f"model.{f}", getattr(first.model, f), getattr(new.model, f)) for f in MODEL)
        yield from ((f"run.{f}", getattr(first.run, f), getattr(new.run, f)) for f in RUN)
        if self._empty or not any(layer.calls for layer in new.layers.values()):
            return
        yield "layers", *_unshared(list(self._layers), list(new.layers))
        for name, layer in new.layers.items():
            old = self._layers[name]
            if layer.count and old.count:
                yield from ((f"{f} of {quoted(name)}", getattr(old, f), getattr(layer, f)) for f in LAYER)
        for name, seen in moments.layers.items():
            exact = self._moments.layers[name].exact
            if seen.calls and self._moments.layers[name].calls:
                yield f"positions that stand alone at {quoted(name)}", exact, seen.exact
        for name, most in _words(moments).items():
            yield f"words of {quoted(name)}", self._words.get(name, most), most

    def report(self) -> Report:
        """Return the report of all parts."""
        layers = {name: self._layer(name, seen) for name, seen in self._moments.layers.items()}
        run = self._run()
        notes = [*self._warnings, *notes_on_texts(run), *missing(self._moments.shards)]
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
        )

    def _layer(self, name: str, seen: LayerState) -> LayerReport:
        described = self._layers[name]
        affine = described.outliers.affine_outliers if described.outliers else None
        most = max(report.layers[name].calls_per_forward for report in self._reports if name in report.layers)
        return replace(fill(described, seen, affine), calls_per_forward=most)

    def _run(self) -> RunInfo:
        runs = [report.run for report in self._reports]
        sums = {name: sum(getattr(run, name) for run in runs) for name in _SUMS}
        for name in _KNOWN_SUMS:
            found = [getattr(run, name) for run in runs]
            sums[name] = None if None in found else sum(found)
        kept = {name: getattr(runs[0], name) for name in _KEPT if len({getattr(r, name) for r in runs}) == 1}
        sums["positions"] = max(run.positions for run in runs)
        sums["position_bins"] = max((run.position_bins or () for run in runs), key=len) or None
        if not self._moments.slots:  # Without tokens a run is told by its layers.
            seen = maximum_counts(self._moments.layers.values())
            sums["tokens"] = seen["tokens"]
            sums["texts"] = seen["texts"] if runs[0].order is None else sums["texts"]
        return replace(
            runs[0],
            **{**dict.fromkeys(_KEPT), **sums, **kept},
            padding_share=self._padding(runs),
        )

    def _padding(self, runs: Sequence[RunInfo]) -> float:
        padding = sum(run.padding_share * n for run, n in zip(runs, self._slots, strict=True) if n)
        return padding / self._moments.slots if self._moments.slots else math.nan


def _unshared(old: list[str], new: list[str]) -> tuple[Any, Any]:
    """Return the first layers that differ between two lists, or how many there are."""
    different = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
    return different[0] if different else (len(old), len(new))


def _words(moments: RunMoments) -> dict[str, int | None]:
    """Return the maximum number of token ids per layer, None where they were not requested."""
    known = {name: seen.moments for name, seen in moments.layers.items() if seen.moments is not None}
    return {name: part.words.most if part.words else None for name, part in known.items()}


def _general_warnings(report: Report, moments: RunMoments) -> list[str]:
    """Return a report's warnings, except those on layers and shards, which are written again."""
    layers = report.layers
    of_layers = {note for name in layers for note in _notes(layers[name], moments.layers[name])}
    of_run = {*notes_on_texts(report.run), *missing(moments.shards)}
    anew = {*of_layers, *of_run, *pooling_notes(layers.values())}
    return [note for note in report.warnings if note not in anew]


def _notes(layer: LayerReport, seen: LayerState) -> list[str]:
    return [f"{layer.name}: {note}" for note in notes_on(layer, seen)]
