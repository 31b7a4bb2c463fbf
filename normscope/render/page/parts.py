"""Sorts saved results into the parts of a page: all results on one model together."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from normscope.errors import UsageError
from normscope.escaping import grouped, printable
from normscope.render.page.figure import Value
from normscope.render.short_names import shorten
from normscope.results.batches import BatchReport
from normscope.results.common import ModelInfo
from normscope.results.compare import Comparison
from normscope.results.inspect import Report
from normscope.results.reading import Saved, read_saved
from normscope.results.swap import SwapReport
from normscope.results.why import WhyReport

Layer = TypeVar("Layer")

# A page of more layers takes a browser, and the renderer of pictures, more memory than they have.
MOST_LAYERS = 256
MOST_MOVERS = 20

_LABEL = 22  # characters of a layer's name beside a chart: what a telephone has room for


@dataclass
class PagePart:
    """One model and at most one result of each command about it; or one comparison.

    `files` are the results in the order given, with the name of the file that each is from. The layer
    `wanted` is shown whatever others there are.
    """

    inspect: Report | None = None
    batches: BatchReport | None = None
    why: WhyReport | None = None
    swap: SwapReport | None = None
    comparison: Comparison | None = None
    files: list[tuple[str, Saved]] = field(default_factory=list)
    wanted: str | None = None

    @property
    def model(self) -> ModelInfo:
        """The model that the part is about: A's, in a comparison."""
        if self.comparison is not None:
            return self.comparison.reports[0].model
        return next(result.model for _, result in self.files if not isinstance(result, Comparison))

    @property
    def title(self) -> str:
        """What the part is called: by its model, or by the two that are compared."""
        if self.comparison is None:
            return printable(self.model.id)
        a, b = (printable(side.model.id) for side in self.comparison.reports)
        return f"{a}, two reports compared" if a == b else f"{a} and {b} compared"

    @cached_property
    def layers(self) -> list[str]:
        """The names of the layers that are shown, in the model's order: of more than MOST_LAYERS some.

        They are evenly spaced, with those that agree least and most with BN, and those that moved most.
        """
        names = self.every_layer
        if len(names) <= MOST_LAYERS:
            return names
        step = (len(names) - 1) / (MOST_LAYERS - 1)
        shown = {names[round(i * step)] for i in range(MOST_LAYERS)} | self._telling()
        return [name for name in names if name in shown]

    def _telling(self) -> set[str]:
        """The layers that are shown for what they are, or since one is asked for."""
        found = set() if self.wanted is None else {self.wanted}
        if self.comparison is not None:
            found.update(list(self.comparison.layers)[:MOST_MOVERS])
        if self.inspect is not None:
            layers = self.inspect.layers.items()
            agreements = {name: (layer.agreement or {}).get("feature", math.nan) for name, layer in layers}
            known = [name for name in agreements if math.isfinite(agreements[name])]
            found.update(pick(known, key=agreements.__getitem__) for pick in (min, max) if known)
        return found

    @property
    def left_out(self) -> str:
        """Say that layers are not shown, where there are too many; else nothing."""
        shown, every = len(self.layers), len(self.every_layer)
        return (
            f"{grouped(shown)} of {grouped(every)} layers are shown, evenly spaced" if shown < every else ""
        )

    @cached_property
    def every_layer(self) -> list[str]:
        """The names of all its layers, in the model's order."""
        if self.comparison is not None:
            found: dict[str, Any] = {**self.comparison.layers}
        else:
            several = (self.swap, self.batches, self.inspect)
            found = {name: layer for each in several if each for name, layer in each.layers.items()}
        return sorted(found, key=lambda name: found[name].index)

    @cached_property
    def labels(self) -> list[str]:
        """The same names, cut to what stands beside a chart, no two alike."""
        return shorten(self.layers, _LABEL, "…")

    def numbered(self, layers: Mapping[str, Layer]) -> list[tuple[int, Layer]]:
        """Return those of a result's layers with their numbers in the part."""
        return [(i, layers[name]) for i, name in enumerate(self.layers) if name in layers]

    def columns(self, places: Sequence[int]) -> dict[str, list[Value]]:
        """Return the columns that say which layer each row of data is of, by the layers' numbers."""
        labels, names = self.labels, [printable(name) for name in self.layers]
        return {
            "layer": list(places),
            "label": [labels[i] for i in places],
            "name": [names[i] for i in places],
        }


_ROLES = {Report: "inspect", BatchReport: "batches", WhyReport: "why", SwapReport: "swap"}


def parts_of(results: Iterable[Saved | str | os.PathLike[str]]) -> list[PagePart]:
    """Sort results, or the files that they were saved in, into parts, in the order given.

    A result joins the first part of its model that has none of its kind; comparisons stand by
    themselves, at the end. Raises ReportError where a file is none, UsageError without any.
    """
    parts: list[PagePart] = []
    for file, result in _read(results):
        part = _place(parts, result)
        role = _ROLES.get(type(result), "comparison")
        setattr(part, role, result)
        part.files.append((file, result))
    if not parts:
        raise UsageError("there is nothing to show; expected one saved result or more; name their files")
    return sorted(parts, key=lambda part: part.comparison is not None)


def headings(parts: Sequence[PagePart]) -> list[str]:
    """Return the parts' titles, with the names of their files where titles are alike."""
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


def _place(parts: list[PagePart], result: Saved) -> PagePart:
    for part in parts:
        if isinstance(result, Comparison) or part.comparison is not None:
            continue
        if getattr(part, _ROLES[type(result)]) is None and _same(part.model, result.model):
            return part
    parts.append(PagePart())
    return parts[-1]


def _same(a: ModelInfo, b: ModelInfo) -> bool:
    """Whether two results are of one model; on which device they were made does not matter."""
    fields = ("id", "revision", "commit", "architecture", "dtype", "parameters")
    return all(getattr(a, name) == getattr(b, name) for name in fields)
