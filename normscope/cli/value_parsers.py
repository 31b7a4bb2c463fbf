"""Parsers for option values: memory sizes, lists of numbers, batch sizes."""

import re
from typing import Literal

from normscope.errors import UsageError
from normscope.escaping import quoted

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY = {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}


def memory(text: str) -> int:
    """Read an amount of memory in bytes: 512MiB, 2GB, 1.5g, 1000000; UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?i?)b?", text.strip().lower())
    unit = {**_UNITS, **_BINARY}.get(found[2]) if found else None
    if found is None or unit is None:
        raise UsageError(f"memory is {quoted(text)}; expected a size such as 512MiB or 2GB; change it")
    return int(float(found[1]) * unit)


def whole_numbers(name: str, text: str | None) -> tuple[int, ...]:
    """Read numbers with commas between them; UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name} is {quoted(text)}; expected whole numbers such as 8,32,128; change it")
    return tuple(int(part) for part in parts)


def batch_size(text: str) -> int | Literal["auto"]:
    """Read a number of samples, or auto; UsageError for anything else."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"-?\d+", text):
        raise UsageError(f"--batch-size is {quoted(text)}; expected a whole number, or auto; change it")
    return int(text)
