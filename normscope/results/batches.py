"""Result of `batches`: BatchNorm's statistics in batches, as frozen dataclasses.

Batches are compared with the kept texts taken together, which are the whole corpus when it fits.
The numbers are defined at `normscope.statistics.batch_noise.Noise` and
`normscope.statistics.batch_composition._Filling`. Unknown is NaN here and null in JSON.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normscope.errors import ReportError
from normscope.escaping import counted
from normscope.results.atomic_write import write_json
from normscope.results.base import Record, Shown
from normscope.results.common import Floats, ModelInfo, RunInfo, Summary
from normscope.results.json_codec import from_plain, require_schema, to_plain

BATCHES_SCHEMA = "normscope.batches/1"


@dataclass(frozen=True, eq=False)
class NoiseParts(Record):
    """The noise of batch means and of batch variances, each summarised over batches."""

    mean: Summary
    variance: Summary


@dataclass(frozen=True, eq=False)
class Running(Record):
    """BatchNorm's running statistics over the batches in their order, beginning with the first.

    `mean` and `variance` are the distance of the final running statistics from those of all kept texts,
    as TID. `tid` is the distance of each batch from the running statistics before it.
    """

    mean: float
    variance: float
    tid: NoiseParts


@dataclass(frozen=True, eq=False)
class BatchNoise(Record):
    """The noise of one layer at one batch size and order; `running` only where a momentum was given."""

    batch_size: int
    order: str
    tid: NoiseParts
    tid_elementwise: NoiseParts
    distance: NoiseParts
    running: Running | None = None


@dataclass(frozen=True, eq=False)
class LayerNoise(Record):
    """One normalization layer; `sizes` is None where its rows could not be told to be any text's."""

    name: str
    index: int
    kind: str
    features: int
    sizes: tuple[BatchNoise, ...] | None


@dataclass(frozen=True, eq=False)
class BatchFilling(Record):
    """What batches of one size and order hold, at every layer; `batches` were drawn.

    `positions` (T,) is the mean number of texts at each position, in batches that reach it.
    """

    batch_size: int
    order: str
    batches: int
    padding_share: float
    tokens: Summary
    positions: Floats
    positions_short: float
    late_samples: float
    variance_error: float


@dataclass(frozen=True, eq=False)
class KeptTexts(Record):
    """The texts that batches are drawn from, as if they were one batch."""

    texts: int
    tokens: int
    positions: Floats
    positions_short: float
    late_samples: float
    variance_error: float


@dataclass(frozen=True, eq=False, repr=False)
class BatchReport(Record, Shown):
    """What BatchNorm would see in batches of the texts of one run, by layer, size and order."""

    normscope: str
    model: ModelInfo
    run: RunInfo
    draws: int
    seed: int
    momentum: float | None
    kept: KeptTexts
    batches: tuple[BatchFilling, ...]
    layers: Mapping[str, LayerNoise]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        sizes = sorted({batch.batch_size for batch in self.batches})
        return f"<BatchReport of {self.model.id}: {counted(len(self.layers), 'layer')}, batches of {sizes}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values, in the documented schema `normscope.batches/1`."""
        plain: dict[str, Any] = to_plain(self)
        return {"schema": BATCHES_SCHEMA, **plain, "layers": list(plain["layers"].values())}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return the report as strict JSON text and, given a path, write it there whole or not at all."""
        return write_json(self.to_dict(), path, indent)

    @classmethod
    def from_dict(cls, data: Any) -> "BatchReport":
        """Build a report from what `to_dict` returns; ReportError says what does not fit."""
        require_schema(data, BATCHES_SCHEMA, "a report on batches")
        layers = from_plain(tuple[LayerNoise, ...], data.get("layers"), "report.layers")
        by_name = {layer.name: to_plain(layer) for layer in layers}
        if len(by_name) < len(layers):
            raise ReportError("report.layers has two layers of one name; expected each name once")
        return from_plain(cls, {**data, "layers": by_name})
