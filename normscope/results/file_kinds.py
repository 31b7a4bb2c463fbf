"""Names the kind of a file that is not JSON, from its first bytes, for messages."""

import json
from pathlib import Path

from normscope.results.inspect import MOMENTS_SCHEMA

_BEGINNINGS = (
    (b"\x89PNG", "a picture, PNG"),
    (b"<svg", "a picture, SVG"),
    (b"<!doctype html", "a page, HTML"),
    (b"<html", "a page, HTML"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"PK\x03\x04", "a zip archive, such as PyTorch's"),
    (b"PAR1", "parquet"),
    (b"layer,view,position,feature,", "CSV"),
    (b"#", "Markdown"),
    (b"|", "Markdown"),
)


def kind_of_file(path: Path) -> str | None:
    """Name the kind of a file that is not JSON; None if it is unknown, or if the path is not a file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            start = stream.read(1 << 16)
    except (OSError, ValueError):
        return None
    if start[5:9] == b"\0\0\0{":
        return _safetensors(path)
    text = start.lstrip().lower()
    if not text:
        return "it is empty"
    kind = next((kind for beginning, kind in _BEGINNINGS if text.startswith(beginning.lower())), None)
    if kind is None and text[:1] not in b"[{":
        kind = "binary" if b"\0" in start else "text that is not JSON, such as a table"
    first, _, more = start.partition(b"\n")
    if kind is None and more.strip() and _is_json(first):
        kind = "JSON Lines"
    return None if kind is None else f"it is {kind}"


def _safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            schema = (file.metadata() or {}).get("schema")
    except (SafetensorError, OSError) as error:
        return f"it is not a complete safetensors file ({error})"
    if schema == MOMENTS_SCHEMA:
        return None  # The reader of the report names its fault.
    return f"it is safetensors of {schema!r}" if schema else "it is safetensors without a report"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
