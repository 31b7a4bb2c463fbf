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
    """The data of a chart, as columns of equal length, and its caption: what it shows, with numbers."""

    columns: _Columns
    says: str


@dataclass(frozen=True)
class Tile:
    """The number that a reader looks for first: what it is, the number, and how it varies."""

    title: str
    number: str
    about: str


@dataclass(frozen=True)
class Figure:
    """One chart: a specification that names its data, and the data.

    A chart of all layers has one slice. A chart `per_layer` has one slice for each layer, None for a layer
    without such numbers. `heads` are the headings of the chart's table by column; instead of them, `pivot`
    names the columns that become the table's rows, columns and cells. `metrics` are the entries of the
    glossary that explain the chart; `notes` say how to read it; `tiles` are its main numbers.
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
    tiles: Sequence[Tile] = ()

    def slice(self, layer: int) -> Slice | None:
        """Return the data for a chosen layer; a chart of all layers has the same for each."""
        return self.slices[layer if self.per_layer else 0]

    def drawable(self, layer: int, about: str) -> dict[str, Any]:
        """Return the specification with the data of a layer in it, and `about` as its subtitle.

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
    """Return rounded numbers for a log scale: None for those that are 0, negative or not finite."""
    return [value if isinstance(value, float) and value > 0 else None for value in rounded(values)]


def table(figure: Figure, part: Slice) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table with a chart's numbers."""
    if figure.pivot is None:
        columns = [map(_cell_text, part.columns[key]) for key in figure.heads]
        return list(figure.heads.values()), [list(row) for row in zip(*columns, strict=True)]
    by_row, by_column, cell = (part.columns[key] for key in figure.pivot)
    across = list(dict.fromkeys(map(_cell_text, by_column)))
    cells: dict[str, dict[str, str]] = {}
    for row, column, value in zip(by_row, by_column, cell, strict=True):
        cells.setdefault(_cell_text(row), {})[_cell_text(column)] = _cell_text(value)
    corner = figure.heads[figure.pivot[0]]
    return [corner, *across], [[row, *(of_row.get(c, "-") for c in across)] for row, of_row in cells.items()]


def _cell_text(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
