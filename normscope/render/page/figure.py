"""A chart before it is drawn: a Vega-Lite specification, its data, and a description."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = float | int | str | None
_Columns = Mapping[str, Sequence[Value]]

DATA = "rows"


@dataclass(frozen=True)
class Slice:
    """The data of a chart, as columns of equal length, and what it shows, in words with its numbers."""

    columns: _Columns
    says: str


@dataclass(frozen=True)
class Figure:
    """One chart: a specification that names its data, and the data.

    `heads` are the table's headings by column; `pivot` names the columns that give a table's rows, its
    columns and its cells instead. `slices` are the one of a chart of all layers, or one for each layer,
    None where it has no such numbers. `metrics` are the glossary's entries on what is drawn.
    """

    name: str
    title: str
    spec: Mapping[str, Any]
    slices: Sequence[Slice | None]
    heads: Mapping[str, str]
    metrics: Sequence[str]
    notes: Sequence[str] = ()
    pivot: tuple[str, str, str] | None = None
    per_layer: bool = False

    def slice(self, layer: int) -> Slice | None:
        """Return the data for a chosen layer, which a chart of all layers has alike for each."""
        return self.slices[layer if self.per_layer else 0]

    def drawable(self, layer: int, about: str) -> dict[str, Any]:
        """Return the specification with the data of a layer in it, and what it is about under its title.

        A layer without data draws nothing.
        """
        part = self.slice(layer)
        return {
            **self.spec,
            "title": {"text": self.title, "subtitle": about},
            "description": f"{self.title} {about}. {part.says if part else ''}",
            "data": {"name": DATA, "values": rows(part.columns) if part else []},
        }


def rows(columns: _Columns) -> list[dict[str, Value]]:
    """Return columns as one dict a row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def rounded(values: Iterable[float], digits: int = 4) -> list[Value]:
    """Return numbers with `digits` significant digits, None for those that are not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in map(float, values)]


def positive(values: Iterable[float]) -> list[Value]:
    """Return the same with None for what a log scale cannot show: 0 and below."""
    return [value if isinstance(value, float) and value > 0 else None for value in rounded(values)]


def table(figure: Figure, part: Slice) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table that stands for a chart."""
    if figure.pivot is None:
        kept = [part.columns[key] for key in figure.heads]
        return list(figure.heads.values()), [[written(v) for v in row] for row in zip(*kept, strict=True)]
    by_row, by_column, cell = (part.columns[key] for key in figure.pivot)
    across = list(dict.fromkeys(map(written, by_column)))
    cells: dict[str, dict[str, str]] = {}
    for row, column, value in zip(by_row, by_column, cell, strict=True):
        cells.setdefault(written(row), {})[written(column)] = written(value)
    corner = figure.heads[figure.pivot[0]]
    return [corner, *across], [[row, *(found.get(c, "-") for c in across)] for row, found in cells.items()]


def written(value: Value) -> str:
    """Write a value of the data in a table: as it is, `-` when unknown."""
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
