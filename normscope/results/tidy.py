"""Tidy data from a result: CSV with one number a row, JSON Lines with one layer, or claim, a line."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from normscope.results.depth import DepthProfile
from normscope.results.json_codec import to_plain
from normscope.results.tidy_records import LAYOUTS, Cell
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

COLUMNS = ("layer", "view", "position", "feature", "statistic", "value")
# Views with lists by position; lists of feature or position numbers. All other lists are by feature.
_BY_POSITION = ("position",)
_NAMED = {"features": "feature", "weight": "feature", "bias": "feature", "positions": "position"}

# Views whose lists have neither axis: they are left out.
_WITHOUT_LISTS = ("curve",)

Row = tuple[str, str, int | None, int | None, str, float | int]


def table(result: Any) -> tuple[tuple[str, ...], Iterator[tuple[Cell, ...]]]:
    """Return the columns of a result's tidy table, and its rows: one per known number.

    `view` and `statistic`, joined by a dot, are the path of the number in the JSON. A number of the layer as
    a whole has the view `layer`, one of a depth profile the view `depth`. For reports and comparisons,
    `position` and `feature` are the index of an element of a list, and are None for other numbers. The
    position of a bin is its first position. A list of feature or position numbers gives one row per
    element, with the value 1. The bins of curves are left out.
    """
    if layout := LAYOUTS.get(type(result)):
        return layout.columns, layout.rows(result)
    layers = result.layers.items()
    rows = (row for name, layer in layers for row in _rows(name, to_plain(layer)))
    return COLUMNS, chain(rows, _depth_rows(getattr(result, "depth", None) or ()))


def csv_lines(result: Any) -> Iterator[str]:
    """Yield the lines of a CSV of a result: a header, then the rows of its `table`."""
    columns, rows = table(result)
    yield _line(columns)
    yield from map(_line, rows)


def json_lines(result: Any) -> Iterator[str]:
    """Yield one line of strict JSON, in ASCII, per layer: the layer's entry in the JSON.

    `why` has claims, and a trajectory revisions, in place of layers. A layer's name is added as `layer`, the
    name of that column in the CSV.
    """
    if isinstance(result, WhyReport | Trajectory):
        records = result.claims if isinstance(result, WhyReport) else result.points
        yield from (f"{json.dumps(to_plain(record), allow_nan=False)}\n" for record in records)
        return
    for name, layer in result.layers.items():
        yield json.dumps({"layer": name, **to_plain(layer)}, allow_nan=False) + "\n"


def _rows(name: str, layer: dict[str, Any]) -> Iterator[Row]:
    for view, part in layer.items():
        if isinstance(part, dict):
            listed = view not in _WITHOUT_LISTS
            yield from (row for row in _below(name, view, part, "") if listed or row[3] is None)
        elif _is_number(part):
            yield name, "layer", None, None, view, part


def _depth_rows(profiles: Sequence[DepthProfile]) -> Iterator[Row]:
    """Yield the rows of the view `depth`; the name of a stack of blocks is in the place of a layer's."""
    for profile in map(to_plain, profiles):
        for part in (*profile.pop("points"), profile):
            yield from _below(part["name"], "depth", part, "")


def _below(name: str, view: str, part: dict[str, Any], path: str) -> Iterator[Row]:
    # The features, or the first positions of bins, that the elements of this part's lists belong to.
    keys = part.get("features") if "share" in part else part.get("first") if view in _BY_POSITION else None
    for key, value in part.items():
        statistic = f"{path}{key}"
        if isinstance(value, dict):
            yield from _below(name, view, value, f"{statistic}.")
        elif isinstance(value, list):
            yield from _elements(name, view, statistic, value, keys if key != "features" else None)
        elif _is_number(value):
            yield name, view, None, None, statistic, value


def _elements(name: str, view: str, statistic: str, values: list[Any], keys: Any) -> Iterator[Row]:
    axis = _NAMED.get(statistic.rpartition(".")[2])
    pairs: Iterable[tuple[int, Any]] = enumerate(values)
    if axis is not None:
        pairs = ((value, 1) for value in values)
    elif keys is not None:
        pairs = zip(keys, values, strict=True)
    by_position = axis == "position" or (axis is None and view in _BY_POSITION)
    for index, value in pairs:
        if _is_number(value):
            position, feature = (index, None) if by_position else (None, index)
            yield name, view, position, feature, statistic, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(row: Iterable[Any]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow("" if cell is None else cell for cell in row)
    return file.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
