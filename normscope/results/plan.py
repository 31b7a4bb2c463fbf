"""Result of `inspect --dry-run`: the expected cost of a run."""

import os
from dataclasses import dataclass
from typing import Any

from normscope.results.atomic_write import write_json
from normscope.results.base import Record
from normscope.results.common import ModelInfo
from normscope.results.json_codec import to_plain

PLAN_SCHEMA = "normscope.plan/1"


@dataclass(frozen=True, eq=False)
class Tables(Record):
    """The tables over positions: their `bytes` at most, in so many `rows`, for so many `positions`.

    `exact` is the number of positions without a bin if later ones share bins, None if there are no bins.
    `positions` is None if texts may have any length.
    """

    bytes: int
    rows: int
    positions: int | None
    exact: int | None


@dataclass(frozen=True, eq=False)
class Corpus(Record):
    """The texts and tokens to come: `counted`, or else estimated from a sample; None where unknown."""

    texts: int | None
    tokens: int | None
    counted: bool


@dataclass(frozen=True, eq=False)
class TimedBatch(Record):
    """The batch that was timed, with the hooks on: its texts, their tokens, and the seconds it took."""

    texts: int
    tokens: int
    seconds: float


@dataclass(frozen=True, eq=False)
class RunPlan(Record):
    """What a run would take. `flops` are floating-point operations a token; times are of this machine."""

    normscope: str
    model: ModelInfo
    normalization_layers: int
    tables: Tables
    corpus: Corpus
    batch: TimedBatch
    flops: float
    expected_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values, in the documented schema `normscope.plan/1`."""
        return {"schema": PLAN_SCHEMA, **to_plain(self)}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return it as strict JSON text and, given a path, write it there whole or not at all."""
        return write_json(self.to_dict(), path, indent)
