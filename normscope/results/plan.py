"""Result of `inspect --dry-run`: the expected cost of a run."""

from dataclasses import dataclass

from normscope.results.base import Record, Result
from normscope.results.common import ModelInfo
from normscope.results.provenance import Provenance


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
class RunPlan(Result):
    """What a run would take. `flops` are floating-point operations a token; times are of this machine."""

    SCHEMA = "normscope.plan/1"
    EXPECTED = "a plan of a run"

    normscope: str
    model: ModelInfo
    normalization_layers: int
    tables: Tables
    corpus: Corpus
    batch: TimedBatch
    flops: float
    expected_seconds: float
    provenance: Provenance | None = None
