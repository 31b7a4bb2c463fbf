"""Result of `batches`: BatchNorm's statistics in batches, as frozen dataclasses.

Batches are compared with the kept texts taken together, which are the whole corpus when it fits.
The numbers are defined at `normscope.statistics.batch_noise.Noise` and
`normscope.statistics.batch_composition.Filling`. Unknown is NaN here and null in JSON.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import Floats, ModelInfo, RunInfo, Summary
from normscope.results.provenance import Provenance


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
    """The noise of one layer at one batch size and order; `running` only where a momentum was given.

    `excess_noise` is the noise of batch means as a multiple of what as many independent tokens would give.
    It is NaN in reports that were written before it existed.
    """

    batch_size: int
    order: str
    tid: NoiseParts
    tid_elementwise: NoiseParts
    distance: NoiseParts
    running: Running | None = None
    excess_noise: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class LayerNoise(Record):
    """One normalization layer; `sizes` is None where its rows could not be told to be any text's."""

    name: str
    index: int
    kind: str
    features: int
    sizes: tuple[BatchNoise, ...] | None

    def __repr__(self) -> str:
        sizes = sorted({row.batch_size for row in self.sizes or ()})
        return f"<LayerNoise of {self.name}: {self.kind}, batches of {sizes}>"

    def at(self, batch_size: int, order: str) -> BatchNoise | None:
        """Return the noise at one batch size and order; None where there were no such batches."""
        rows = (row for row in self.sizes or () if (row.batch_size, row.order) == (batch_size, order))
        return next(rows, None)


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
class BatchReport(Result, Shown, Tabular):
    """What BatchNorm would see in batches of the texts of one run, by layer, size and order."""

    SCHEMA = "normscope.batches/1"
    EXPECTED = "a report on batches"

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
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        sizes = sorted({batch.batch_size for batch in self.batches})
        return f"<BatchReport of {self.model.id}: {counted(len(self.layers), 'layer')}, batches of {sizes}>"
