"""Tidy rows of results that list records under several keys: batches, swaps, claims and revisions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from normscope.results.batches import BatchReport
from normscope.results.json_codec import to_plain
from normscope.results.swap import SwapReport
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

Cell = str | int | float | None


@dataclass(frozen=True)
class Layout:
    """The layout of a table: its columns, and the parts of the result that are in it.

    `keys` maps members of records to the columns that hold them. The elements of a list of numbers have
    their index in the column `position`. The paths of numbers begin below the part `records`; its numbers
    that are in no view have the view `whole`.
    """

    columns: tuple[str, ...]
    parts: tuple[str, ...]
    keys: Mapping[str, str]
    records: str
    whole: str

    def rows(self, result: Any) -> Iterator[tuple[Cell, ...]]:
        """Yield one row per known number; `view` and `statistic`, joined by a dot, are its path."""
        plain = to_plain(result)
        for part in self.parts:
            path = () if part == self.records else (part,)
            records = plain[part].values() if part == "layers" else [plain[part]]
            for record in records:
                for cells, names, value in _numbers(record, self.keys, {}, path):
                    view, statistic = names if len(names) == 2 else (self.whole, names[0])
                    row = {**cells, "view": view, "statistic": statistic, "value": value}
                    yield tuple(row.get(column) for column in self.columns)


_BATCHES = Layout(
    ("layer", "view", "batch_size", "order", "position", "statistic", "value"),
    ("kept", "batches", "layers"),
    {"name": "layer", "batch_size": "batch_size", "order": "order"},
    "layers",
    "layer",
)
_SWAP = Layout(
    ("layer", "view", "replaced", "statistic", "value"),
    ("calibration", "baseline", "layers", "all", "cumulative", "fold"),
    {"name": "layer", "replaced": "replaced"},
    "layers",
    "layer",
)
_WHY = Layout(
    ("claim", "view", "evidence", "layer", "statistic", "value"),
    ("claims",),
    {"id": "claim", "name": "evidence", "layer": "layer"},
    "claims",
    "claim",
)
# Rows without a layer are medians over layers.
_TRAJECTORY = Layout(
    ("revision", "layer", "view", "statistic", "value"),
    ("points",),
    {"revision": "revision", "name": "layer"},
    "points",
    "point",
)
LAYOUTS: Mapping[type, Layout] = {
    BatchReport: _BATCHES,
    SwapReport: _SWAP,
    WhyReport: _WHY,
    Trajectory: _TRAJECTORY,
}


def _numbers(
    value: Any, keys: Mapping[str, str], cells: dict[str, Cell], path: tuple[str, ...]
) -> Iterator[tuple[dict[str, Cell], tuple[str, ...], float]]:
    """Yield each number below a plain value: the cells of its keys, its view and statistic, the number."""
    if isinstance(value, dict):
        cells = {**cells, **{keys[name]: item for name, item in value.items() if name in keys}}
        for name, item in value.items():
            if name not in keys:
                yield from _numbers(item, keys, cells, _joined(path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            inner = cells if isinstance(item, dict) else {**cells, "position": index}
            yield from _numbers(item, keys, inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield cells, path, value


def _joined(path: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return a path of a view and a statistic, whose parts are joined by dots, with one more name.

    A list of layers has no name of its own in the path.
    """
    if name == "layers":
        return path
    return (*path, name) if len(path) < 2 else (path[0], f"{path[1]}.{name}")
