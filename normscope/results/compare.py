"""Result of `compare`: two reports side by side, layer by layer."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from normscope.errors import ReportError
from normscope.escaping import counted
from normscope.results.atomic_write import write_json
from normscope.results.base import Record, Shown
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.json_codec import from_plain, require_schema, to_plain

COMPARE_SCHEMA = "normscope.compare/1"


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
    LayerNorm takes. The changes are B minus A.
    """

    name: str
    other: str
    index: int
    kind: str
    bn_drift: Drift
    ln_drift: Drift
    agreement_change: float
    position_change: float


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Record, Shown):
    """Report B against report A; the layers that moved most come first.

    `reports` are A and B; `only_a` and `only_b` name the layers that have no counterpart.
    """

    normscope: str
    reports: tuple[Compared, ...]
    layers: Mapping[str, LayerDrift]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        a, b = (compared.model.id for compared in self.reports)
        return f"<Comparison of {a} and {b}: {counted(len(self.layers), 'layer')}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values, in the documented schema `normscope.compare/1`."""
        plain: dict[str, Any] = to_plain(self)
        return {"schema": COMPARE_SCHEMA, **plain, "layers": list(plain["layers"].values())}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return it as strict JSON text and, given a path, write it there whole or not at all."""
        return write_json(self.to_dict(), path, indent)

    @classmethod
    def from_dict(cls, data: Any) -> "Comparison":
        """Build a comparison from what `to_dict` returns; ReportError says what does not fit."""
        require_schema(data, COMPARE_SCHEMA, "a comparison")
        layers = from_plain(tuple[LayerDrift, ...], data.get("layers"), "comparison.layers")
        by_name = {layer.name: layer for layer in layers}
        if len(by_name) < len(layers):
            raise ReportError("comparison.layers has two layers of one name; expected each name once")
        return replace(from_plain(cls, {**data, "layers": {}}, "comparison"), layers=by_name)
