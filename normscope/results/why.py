"""Result of `why`: a model's evidence on the article's claims."""

import math
from dataclasses import dataclass

from normscope.results.base import Record, Result, Shown
from normscope.results.common import ModelInfo, RunInfo


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
class WhyReport(Result, Shown):
    """The article's claims on why NLP uses LayerNorm and not BatchNorm, with one model's evidence.

    The numbers are computed from `kept_texts` of the run's texts. The 95 % intervals come from the
    bootstrap over texts with the random seed `seed`.
    """

    SCHEMA = "normscope.why/1"
    EXPECTED = "a report on the claims"

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
