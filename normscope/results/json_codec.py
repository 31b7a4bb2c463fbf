"""Converts frozen dataclasses to plain JSON values and back, by their field types alone.

Unknown numbers are NaN in Python and null in JSON; a trailing underscore in a field name
(`global_`) avoids Python's keywords and is dropped in JSON. Members that a reader does not know
are ignored: a later minor version may have added them.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union

import numpy as np

from normscope.errors import ReportError
from normscope.escaping import printable

T = TypeVar("T")

# The metadata of fields that are not part of the plain values.
NOT_IN_JSON = {"not_in_json": True}


def to_plain(value: Any) -> Any:
    """Return `value` as dicts, lists, strings, numbers and None; never NaN or Infinity."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name.rstrip("_"): to_plain(getattr(value, f.name)) for f in plain_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [to_plain(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def plain_fields(kind: Any) -> "list[dataclasses.Field[Any]]":
    """List the fields of a dataclass that are part of its plain values."""
    return [field for field in dataclasses.fields(kind) if "not_in_json" not in field.metadata]


def from_plain(kind: type[T], value: Any, where: str = "report") -> T:
    """Build `kind` from plain values; ReportError names the first member that does not fit, below `where`."""
    return typing.cast(T, _read(kind, value, where))


def require_schema(data: Any, schema: str, what: str) -> dict[str, Any]:
    """Return `data` if it follows `schema`; otherwise raise a ReportError that says it is not `what`."""
    actual = data.get("schema") if isinstance(data, dict) else type(data).__name__
    if isinstance(data, dict) and actual == schema:
        return data
    raise ReportError(f"not {what}: schema is {printable(repr(actual)[:200])}; expected {schema!r}")


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        (present,) = (a for a in arguments if a is not type(None))
        return None if value is None else _read(present, value, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is np.ndarray or origin is np.ndarray:
        return _read_array(arguments, value, where)
    if origin is tuple:
        return tuple(
            _read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(_expect(list, value, where))
        )
    if origin is not None and issubclass(origin, Mapping):
        members = _expect(dict, value, where).items()
        return {key: _read(arguments[1], item, f"{where}.{printable(key)}") for key, item in members}
    return _read_scalar(kind, value, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    members = _expect(dict, value, where)
    hints = _hints(kind)
    read = {}
    for field in plain_fields(kind):
        key = field.name.rstrip("_")
        if key not in members and field.default is not dataclasses.MISSING:
            continue  # An earlier version wrote the report, before the field existed.
        if key not in members:
            raise ReportError(f"{where} has no member {key!r}; expected a report that normscope wrote")
        read[field.name] = _read(hints[field.name], members[key], f"{where}.{key}")
    return kind(**read)


_hints = functools.cache(typing.get_type_hints)


def _read_array(arguments: tuple[Any, ...], value: Any, where: str) -> np.ndarray:
    element = typing.get_args(arguments[1])[0]
    kind = int if issubclass(element, np.integer) else float
    numbers = _expect(list, value, where)
    try:
        if not set(map(type, numbers)) <= {kind} or not np.isfinite(np.asarray(numbers, dtype=element)).all():
            numbers = [_read_scalar(kind, item, where) for item in numbers]
        return np.asarray(numbers, dtype=element)
    except OverflowError:
        raise ReportError(f"{where} has a number too large; expected 64 bits") from None


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and value is None:
        return math.nan
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ReportError(f"{where} is too large; expected a number of 64 bits") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"{where} is too large; expected a number of 64 bits")
    return _expect(kind, value, where)


def _expect(kind: type, value: Any, where: str) -> Any:
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ReportError(f"{where} is {type(value).__name__}; expected {kind.__name__}")
