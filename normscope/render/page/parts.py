"""Sorts saved results into the parts of a page: one part for all results on one model."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from normscope.errors import UsageError
from normscope.escaping import counted, grouped, printable
from normscope.render.page.figure import Value
from normscope.render.short_names import shorten
from normscope.render.summary import agreement
from normscope.results.batches import BatchReport
from normscope.results.common import ModelInfo
from normscope.results.compare import Compared, Comparison
from normscope.results.inspect import Report
from normscope.results.reading import Saved, read_saved
from normscope.results.swap import SwapReport
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

Layer = TypeVar("Layer")

# With more layers, browsers and the renderer of pictures run out of memory.
MAX_LAYERS = 256
MAX_MOVERS = 20

_LABEL_WIDTHS = 12, 28  # characters of a layer's name next to a chart: the fewest that cut no name


@dataclass
class PagePart:
    """One model with at most one result of each command; or one comparison, or one trajectory.

    `files` holds the results in the order given, each with the name of its file. The layer `wanted` is
    always shown, however many others there are.
    """

    inspect: Report | None = None
    batches: BatchReport | None = None
    why: WhyReport | None = None
    swap: SwapReport | None = None
    compare: Comparison | None = None
    trajectory: Trajectory | None = None
    files: list[tuple[str, Saved]] = field(default_factory=list)
    wanted: str | None = None

    @property
    def measured(self) -> Report | BatchReport | WhyReport | SwapReport | Compared:
        """The first result about the part's model: A, in a comparison, the first report of a trajectory."""
        if self.compare is not None:
            return self.compare.reports[0]
        if self.trajectory is not None:
            return self.trajectory.reports[0]
        return next(result for _, result in self.files if not isinstance(result, Comparison | Trajectory))

    @property
    def is_alone(self) -> bool:
        """Whether no other result joins the part: it is a comparison or a trajectory."""
        return self.compare is not None or self.trajectory is not None

    @property
    def model(self) -> ModelInfo:
        """The model that the part is about: A's, in a comparison."""
        return self.measured.model

    @property
    def title(self) -> str:
        """The part's title: its model, the two models that are compared, or how many revisions."""
        if self.trajectory is not None:
            return f"{printable(self.model.id)}, {counted(len(self.trajectory.points), 'revision')}"
        if self.compare is None:
            return printable(self.model.id)
        a, b = (printable(side.model.id) for side in self.compare.reports)
        return f"{a}, two reports compared" if a == b else f"{a} and {b} compared"

    @cached_property
    def layers(self) -> list[str]:
        """The names of the layers that are shown, in the model's order.

        Of more than MAX_LAYERS layers, only some are shown: evenly spaced ones, the two that agree least and
        most with BN, and those that moved most.
        """
        names = self.every_layer
        if len(names) <= MAX_LAYERS:
            return names
        step = (len(names) - 1) / (MAX_LAYERS - 1)
        shown = {names[round(i * step)] for i in range(MAX_LAYERS)} | self._notable()
        return [name for name in names if name in shown]

    def _notable(self) -> set[str]:
        """The layers that must not be left out: extreme ones, and the one that is asked for."""
        names = set() if self.wanted is None else {self.wanted}
        if self.compare is not None:
            names.update(list(self.compare.layers)[:MAX_MOVERS])
        if agreements := self._agreements:
            names.update(end(agreements, key=agreements.__getitem__) for end in (min, max))
        return names

    @property
    def _agreements(self) -> dict[str, float]:
        """The agreement with BN of each layer for which it is known."""
        layers = self.inspect.layers if self.inspect else {}
        agreements = {name: agreement(layer) for name, layer in layers.items()}
        return {name: value for name, value in agreements.items() if math.isfinite(value)}

    @property
    def start(self) -> int:
        """The number of the layer to show first: the wanted one, the one least like BN, or the first."""
        if self.wanted is not None:
            return self.layers.index(self.wanted)
        agreements = self._agreements
        numbers = [number for number, name in enumerate(self.layers) if name in agreements]
        return min(numbers, key=lambda number: agreements[self.layers[number]], default=0)

    @property
    def left_out(self) -> str:
        """A sentence on how many layers are shown; empty where all are."""
        shown, every = len(self.layers), len(self.every_layer)
        return (
            f"{grouped(shown)} of {grouped(every)} layers are shown, evenly spaced" if shown < every else ""
        )

    @cached_property
    def every_layer(self) -> list[str]:
        """The names of all layers, in the model's order."""
        of_model = [self.swap, self.batches, self.inspect]
        revisions = self.trajectory.reports if self.trajectory else ()
        results: list[Any] = [*of_model, *revisions] if self.compare is None else [self.compare]
        layers = {name: layer for result in results if result for name, layer in result.layers.items()}
        return sorted(layers, key=lambda name: layers[name].index)

    @cached_property
    def labels(self) -> list[str]:
        """Short names of the layers that are shown, to fit next to a chart; all are different."""
        for width in range(_LABEL_WIDTHS[0], _LABEL_WIDTHS[1] + 1):
            names = shorten(self.layers, width, "…")
            labels = [name.lstrip("…") for name in names]
            cut = any("…" in label or label.startswith("#") for label in labels)
            if len(set(labels)) == len(set(names)) and not cut:
                return labels
        return names

    def numbered(self, layers: Mapping[str, Layer]) -> list[tuple[int, Layer]]:
        """Return a result's layers that are shown, each with its number in the part."""
        return [(i, layers[name]) for i, name in enumerate(self.layers) if name in layers]

    def columns(self, numbers: Sequence[int]) -> dict[str, list[Value]]:
        """Return the columns that name the layer of each row of data, from the layers' numbers."""
        names = [printable(name) for name in self.layers]
        return {
            "layer": list(numbers),
            "label": [self.labels[i] for i in numbers],
            "name": [names[i] for i in numbers],
        }


# The command that makes each kind of result, or the kind; the fields of a PagePart have the same names.
COMMANDS: dict[type, str] = {
    Report: "inspect",
    BatchReport: "batches",
    WhyReport: "why",
    SwapReport: "swap",
    Comparison: "compare",
    Trajectory: "trajectory",
}


def parts_of(results: Iterable[Saved | str | os.PathLike[str]]) -> list[PagePart]:
    """Sort results, or the files that they were saved in, into parts, in the order given.

    A result joins the first part of its model that has none of its kind. Each comparison and each trajectory
    is a part of its own, comparisons at the end. Raises ReportError for a file that is not a result,
    UsageError without any result.
    """
    parts: list[PagePart] = []
    for file, result in _read(results):
        part = _part_for(parts, result)
        setattr(part, COMMANDS[type(result)], result)
        part.files.append((file, result))
    if not parts:
        raise UsageError("there is nothing to show; expected one saved result or more; name their files")
    return sorted(parts, key=lambda part: part.compare is not None)


def headings(parts: Sequence[PagePart]) -> list[str]:
    """Return the parts' titles, with the names of their files where titles are the same."""
    titles = [part.title for part in parts]
    files = [", ".join(dict.fromkeys(file for file, _ in part.files if file)) for part in parts]
    return [
        f"{title} ({names or number})" if titles.count(title) > 1 else title
        for number, (title, names) in enumerate(zip(titles, files, strict=True), start=1)
    ]


def _read(results: Iterable[Saved | str | os.PathLike[str]]) -> Iterator[tuple[str, Saved]]:
    for result in results:
        if isinstance(result, str | os.PathLike):
            yield printable(Path(result).name), read_saved(result)
        else:
            yield "", result


def _part_for(parts: list[PagePart], result: Saved) -> PagePart:
    for part in parts:
        if isinstance(result, Comparison | Trajectory) or part.is_alone:
            continue
        if getattr(part, COMMANDS[type(result)]) is None and _same(part.model, result.model):
            return part
    parts.append(PagePart())
    return parts[-1]


def _same(a: ModelInfo, b: ModelInfo) -> bool:
    """Whether two results are of one model; they may come from different devices."""
    fields = ("id", "revision", "commit", "architecture", "dtype", "parameters")
    return all(getattr(a, name) == getattr(b, name) for name in fields)
