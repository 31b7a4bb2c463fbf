"""Provenance of a result: when, by which command and versions, and from which weights and texts."""

import functools
import platform
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata

from normscope._version import __version__
from normscope.results.base import Record


@dataclass(frozen=True, eq=False)
class Versions(Record):
    """The versions of the software; None for a library that is not installed."""

    normscope: str
    python: str
    torch: str | None
    transformers: str | None


@dataclass(frozen=True, eq=False)
class Provenance(Record):
    """What a paper states about a result; None is unknown, or does not apply.

    `date` is in UTC, in the form of ISO 8601. `command` is the command line as it was typed, without
    secrets; None in Python. `commit` is the model's on the Hub. Without one, `weights_sample` is the
    SHA-256 of the names, dtypes, shapes and first 1,024 elements of all weights and buffers. `texts_read`
    is the number of texts that were read, blank ones included, and `texts_sha256` the SHA-256 of their
    UTF-8, each text followed by a line feed.
    """

    date: str
    command: str | None
    versions: Versions
    commit: str | None = None
    weights_sample: str | None = None
    texts_read: int | None = None
    texts_sha256: str | None = None
    seed: int | None = None


def provenance_now(commit: str | None = None) -> Provenance:
    """Return the provenance of a result that is made now, from a model of this commit."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Provenance(date, None, _versions(), commit)


@functools.cache
def _versions() -> Versions:
    # The metadata gives versions without an import of the libraries.
    return Versions(__version__, platform.python_version(), _installed("torch"), _installed("transformers"))


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def with_facts(provenance: Provenance | None, **facts: int | str | None) -> Provenance | None:
    """Return the provenance with other values of some fields; None stays None."""
    return None if provenance is None else replace(provenance, **facts)  # type: ignore[arg-type]
