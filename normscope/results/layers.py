"""Result of `layers`: a model's normalization layers before anything has run."""

from dataclasses import dataclass

from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class OutlinedModel(Record):
    """Which model it is; `parameters` counts its weights."""

    id: str
    revision: str | None
    commit: str | None
    architecture: str
    parameters: int


@dataclass(frozen=True, eq=False)
class OutlinedLayer(Record):
    """One normalization layer.

    `features` is None if only the layer's input determines it; `eps` is NaN if the layer has none.
    `place` is one of embeddings, pre-norm, post-norm, final, per-head, head, other: see
    `normscope.norms.placement.Places`.
    """

    name: str
    index: int
    module: str
    kind: str
    features: int | None
    eps: float
    affine: str
    parameters: int
    place: str


@dataclass(frozen=True, eq=False, repr=False)
class Outline(Result, Shown):
    """The normalization layers of one model, in model order."""

    SCHEMA = "normscope.layers/1"
    EXPECTED = "a list of layers"
    WHERE = "layers"

    normscope: str
    model: OutlinedModel
    layers: tuple[OutlinedLayer, ...]
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        return f"<Outline of {self.model.id}: {counted(len(self.layers), 'layer')}>"
