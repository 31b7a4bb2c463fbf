"""Result of `why`: a model's evidence on the article's claims."""

import math
import os
from dataclasses import dataclass
from typing import Any

from normscope.results.atomic_write import write_json
from normscope.results.base import Record, Shown
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.json_codec import from_plain, require_schema, to_plain

WHY_SCHEMA = "normscope.why/1"


@dataclass(frozen=True, eq=False)
class Interval(Record):
    """A number and its 95 % confidence interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, eq=False)
class Evidence(Record):
    """One number of this model and these texts: its `name` in words, and the number with its interval.

    `metric` is the name of its entry in `normscope explain`.
    """

    name: str
    metric: str
    number: Interval


@dataclass(frozen=True, eq=False)
class Finding(Record):
    """One claim: what it says, its evidence, the rule that decides it by `decided_by`, and the verdict.

    `decided_by` is the name of the evidence that the rule tests. It is None, and `threshold` is NaN, if
    no number decides. `verdict` is one of holds, fails, undecided, "not testable here". `more` is the
    command that shows more.
    """

    id: str
    claim: str
    evidence: tuple[Evidence, ...]
    decided_by: str | None
    threshold: float
    rule: str
    verdict: str
    more: str


@dataclass(frozen=True, eq=False)
class Pooled(Record):
    """Some texts as tokens, each from position 0: what is in one column BatchNorm takes for one feature."""

    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False, repr=False)
class WhyReport(Record, Shown):
    """The article's claims on why NLP uses LayerNorm and not BatchNorm, with one model's evidence.

    The numbers are computed from `kept_texts` of the run's texts. The 95 % intervals come from the
    bootstrap over texts with the random seed `seed`.
    """

    normscope: str
    model: ModelInfo
    run: RunInfo
    kept_texts: int
    seed: int
    claims: tuple[Finding, ...]
    pooled: Pooled
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{finding.id} {finding.verdict}" for finding in self.claims)
        return f"<WhyReport of {self.model.id}: {verdicts}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, in the documented schema `normscope.why/1`."""
        return {"schema": WHY_SCHEMA, **to_plain(self)}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return the report as strict JSON text and, given a path, write it there whole or not at all."""
        return write_json(self.to_dict(), path, indent)

    @classmethod
    def from_dict(cls, data: Any) -> "WhyReport":
        """Build a report from what `to_dict` returns; ReportError says what does not fit."""
        require_schema(data, WHY_SCHEMA, "a report on the claims")
        return from_plain(cls, data)
