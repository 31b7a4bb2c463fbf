"""JSON Schema of all results, derived from the types of their fields."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Union

import numpy as np

from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.results.batches import BatchReport
from normscope.results.compare import Comparison
from normscope.results.glossary.entry import EXPLAIN_SCHEMA, Glossary
from normscope.results.inspect import Report
from normscope.results.json_codec import plain_fields
from normscope.results.layers import Outline
from normscope.results.plan import RunPlan
from normscope.results.swap import SwapReport
from normscope.results.track import Track
from normscope.results.trajectory import Trajectory
from normscope.results.why import WhyReport

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# The result types and their versioned schema names, by the names that users give.
RESULTS: dict[str, tuple[str, type[Any]]] = {
    "report": (Report.SCHEMA, Report),
    "plan": (RunPlan.SCHEMA, RunPlan),
    "layers": (Outline.SCHEMA, Outline),
    "batches": (BatchReport.SCHEMA, BatchReport),
    "swap": (SwapReport.SCHEMA, SwapReport),
    "why": (WhyReport.SCHEMA, WhyReport),
    "compare": (Comparison.SCHEMA, Comparison),
    "track": (Track.SCHEMA, Track),
    "explain": (EXPLAIN_SCHEMA, Glossary),
    "trajectory": (Trajectory.SCHEMA, Trajectory),
}
# Members that a result's JSON has in addition to those of its type.
_EXTRA_MEMBERS: dict[str, dict[str, Any]] = {"explain": {"notation": {"type": "string"}}}

Schema = dict[str, Any]


def json_schema(name: str | None = None) -> Schema:
    """Return the JSON Schema (draft 2020-12) of one result, or of any of them.

    `name` is report, plan, layers, batches, swap, why, compare, track, explain or trajectory. The members
    that a reader of this version needs are required; later minor versions may add others. Raises
    UsageError for another name.
    """
    if name is None:
        schemas = [_result(key) for key in RESULTS]
        definitions = {name: kind for schema in schemas for name, kind in schema.pop("$defs").items()}
        return {"$schema": _DIALECT, "oneOf": schemas, "$defs": definitions}
    if name not in RESULTS:
        raise UsageError(f"there is no schema {quoted(name)}; expected one of {', '.join(RESULTS)}; name one")
    return {"$schema": _DIALECT, **_result(name)}


def _result(name: str) -> Schema:
    version, kind = RESULTS[name]
    definitions: dict[str, Schema] = {}
    body = _Types(definitions).record(kind)
    extra = {"schema": {"const": version}, **_EXTRA_MEMBERS.get(name, {})}
    if kind is Trajectory:
        report = _result("report")
        definitions.update(report.pop("$defs"))
        extra["reports"] = {"type": "array", "items": report}
    return {
        "title": version,
        **body,
        "properties": {**extra, **body["properties"]},
        "required": [*extra, *body["required"]],
        "$defs": definitions,
    }


class _Types:
    """Schemas of field types; every dataclass is defined once, under its name."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def record(self, kind: Any) -> Schema:
        """Return the schema of a dataclass's own members."""
        hints = typing.get_type_hints(kind)
        fields = plain_fields(kind)
        return {
            "description": (kind.__doc__ or "").split("\n", maxsplit=1)[0],
            "type": "object",
            "properties": {field.name.rstrip("_"): self.of(hints[field.name]) for field in fields},
            "required": [f.name.rstrip("_") for f in fields if f.default is dataclasses.MISSING],
        }

    def of(self, kind: Any) -> Schema:
        """Return the schema of a value of this type."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (Union, types.UnionType):
            (present,) = (a for a in arguments if a is not type(None))
            return {"anyOf": [self.of(present), {"type": "null"}]}
        if dataclasses.is_dataclass(kind):
            return self._reference(kind)
        if origin is np.ndarray:
            is_integer = issubclass(typing.get_args(arguments[1])[0], np.integer)
            return {"type": "array", "items": _SCALARS[int if is_integer else float]}
        if origin is tuple:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(arguments[1])
        return _SCALARS[kind]

    def _mapping(self, kind: Any) -> Schema:
        # A record holds its own name, so a mapping of records is written as a list.
        if dataclasses.is_dataclass(kind):
            return {"type": "array", "items": self.of(kind)}
        return {"type": "object", "additionalProperties": self.of(kind)}

    def _reference(self, kind: Any) -> Schema:
        if kind.__name__ not in self._definitions:
            self._definitions[kind.__name__] = {}  # Reserves its position before its members' types.
            self._definitions[kind.__name__].update(self.record(kind))
        return {"$ref": f"#/$defs/{kind.__name__}"}


_SCALARS: dict[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},
    str: {"type": "string"},
    bool: {"type": "boolean"},
}
