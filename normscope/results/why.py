"""Result of `why`: a model's evidence on the article's claims."""

import math
from dataclasses import dataclass

from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import ModelInfo, Pooled, RunInfo
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Interval(Record):
    """A number and its 95 % confidence interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, eq=False)
class LayerNumber(Record):
    """One layer's number with its interval."""

    layer: str
    number: Interval


@dataclass(frozen=True, eq=False)
class Evidence(Record):
    """One number of this model and these texts: its `name` in words, and the number with its interval.

    `metric` is the name of its entry in `normscope explain`. `null` is the number where nothing is there,
    NaN where none is known. `layers` are the numbers of single layers, of which `number` is the median.
    """

    name: str
    metric: str
    number: Interval
    null: float = math.nan
    layers: tuple[LayerNumber, ...] = ()


@dataclass(frozen=True, eq=False)
class Finding(Record):
    """One claim: what it says, its evidence, the rule that decides it by `decided_by`, and the verdict.

    `decided_by` is the name of the evidence that the rule tests. It is None, and `threshold` is NaN, if
    no number decides. `verdict` is one of holds, fails, undecided, "not testable here". `more` is the
    command that shows more. `source` says whose claim it is, `quantity` what is measured, and `null` what
    the number is read against. Of the layers, the intervals of `layers_above` lie above the threshold, and
    those of `layers_below` lie below it.
    """

    id: str
    claim: str
    evidence: tuple[Evidence, ...]
    decided_by: str | None
    threshold: float
    rule: str
    verdict: str
    more: str
    source: str = ""
    quantity: str = ""
    null: str = ""
    layers_above: int = 0
    layers_below: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class WhyReport(Result, Shown, Tabular):
    """The article's claims on why NLP uses LayerNorm and not BatchNorm, with one model's evidence.

    The numbers are computed from `kept_texts` of the run's texts, each different text once; those of
    the nulls that run the model again from `null_texts`. The 95 % intervals come from the jackknife over
    texts. The random seed `seed` chooses texts, shuffles words and makes the weights of an untrained copy.
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
    null_texts: int = 0
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{finding.id} {finding.verdict}" for finding in self.claims)
        return f"<WhyReport of {self.model.id}: {verdicts}>"
