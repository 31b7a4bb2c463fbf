"""Base classes of results: JSON under a schema, equality by plain values, and tables in notebooks."""

import dataclasses
import os
import typing
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from normscope.errors import ReportError
from normscope.results.atomic_write import write_json
from normscope.results.json_codec import from_plain, require_schema, to_plain

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R", bound="Result")


class Shown:
    """A base for results that print and Jupyter show as the tables of `normscope.render.notebook`."""

    # The renderers are imported by name when they are needed, since results do not depend on them.

    def __str__(self) -> str:
        return str(import_module("normscope.render.notebook").render_text(self))

    def _repr_html_(self) -> str:
        return str(import_module("normscope.render.notebook").render_html(self))


class Tabular:
    """A base for results whose numbers are a tidy table."""

    def to_frame(self) -> "pd.DataFrame":
        """Return the table that `--format csv` writes, one row per number; UsageError without pandas."""
        # Imported by name, since the tables know the kinds of results.
        frame: pd.DataFrame = import_module("normscope.results.frames").tidy_frame(self)
        return frame


class Record:
    """A base for dataclasses of numbers and arrays: equal when their plain values are, so NaN equals NaN."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(to_plain(self) == to_plain(other))


class Result(Record):
    """A base for the results of commands: converts them to JSON under a schema, and back.

    A mapping of `layers` by name becomes a list in JSON. Results are equal when all but their `provenance`
    is, which has the date.
    """

    SCHEMA: ClassVar[str]
    """The name of the schema, such as `normscope.report/1`."""
    EXPECTED: ClassVar[str]
    """The name of such a result in messages, such as "a normscope report"."""
    WHERE: ClassVar[str] = "report"
    """The name of the outermost value in messages."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        one, two = ({**to_plain(result), "provenance": None} for result in (self, other))
        return bool(one == two)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values, in the documented schema that `SCHEMA` names."""
        plain: dict[str, Any] = to_plain(self)
        if isinstance(plain.get("layers"), dict):
            plain["layers"] = list(plain["layers"].values())
        return {"schema": self.SCHEMA, **plain}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return the result as strict JSON text; with a path, write it there completely or not at all."""
        return write_json(self.to_dict(), path, indent)

    @classmethod
    def from_dict(cls: type[R], data: Any) -> R:
        """Build a result from what `to_dict` returns; ReportError names a member that does not fit."""
        data = require_schema(data, cls.SCHEMA, cls.EXPECTED)
        kind = typing.get_type_hints(cls).get("layers")
        if typing.get_origin(kind) is not Mapping:
            return from_plain(cls, data, cls.WHERE)
        layer_list: Any = tuple[typing.get_args(kind)[1], ...]  # type: ignore[misc]
        layers = from_plain(layer_list, data.get("layers"), f"{cls.WHERE}.layers")
        by_name = {layer.name: layer for layer in layers}
        if len(by_name) < len(layers):
            raise ReportError(f"{cls.WHERE}.layers has two layers of one name; expected each name once")
        rest = from_plain(cls, {**data, "layers": {}}, cls.WHERE)
        return dataclasses.replace(rest, layers=by_name)  # type: ignore[type-var]
