"""Result of `compare`: two reports side by side, layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Compared(Record):
    """One of the reports: which model, and what was fed to it."""

    model: ModelInfo
    run: RunInfo


@dataclass(frozen=True, eq=False)
class Drift(Record):
    """How far means and variances moved, relative to A's own spread; NaN where either is unknown."""

    mean: float
    variance: float


@dataclass(frozen=True, eq=False)
class LayerDrift(Record):
    """One layer of A and its counterpart in B, `other`; `index` is A's.

    `bn_drift` compares the statistics that BatchNorm would store, `ln_drift` the averages of those that
    LayerNorm takes. The changes are B minus A; the last five, of the largest |input| and |output|, of the
    headroom, of the residual stream's rms and of its kurtosis, are of the logarithms to base 2. A change
    is NaN where a report does not have the number.
    """

    name: str
    other: str
    index: int
    kind: str
    bn_drift: Drift
    ln_drift: Drift
    agreement_change: float
    position_change: float
    mean_share_change: float = math.nan
    mean_share_energy_change: float = math.nan
    largest_input_change: float = math.nan
    largest_output_change: float = math.nan
    headroom_change: float = math.nan
    residual_rms_change: float = math.nan
    kurtosis_change: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result, Shown, Tabular):
    """Report B against report A; the layers that moved most come first.

    `reports` are A and B; `only_a` and `only_b` name the layers that have no counterpart.
    """

    SCHEMA = "normscope.compare/1"
    EXPECTED = "a comparison"
    WHERE = "comparison"

    normscope: str
    reports: tuple[Compared, ...]
    layers: Mapping[str, LayerDrift]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    warnings: tuple[str, ...]
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        a, b = (compared.model.id for compared in self.reports)
        return f"<Comparison of {a} and {b}: {counted(len(self.layers), 'layer')}>"
