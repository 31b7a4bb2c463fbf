"""Result of `layers`: a model's normalization layers before anything has run."""

import os
from dataclasses import dataclass
from typing import Any

from normscope.escaping import counted
from normscope.results.atomic_write import write_json
from normscope.results.base import Record, Shown
from normscope.results.json_codec import from_plain, require_schema, to_plain

OUTLINE_SCHEMA = "normscope.layers/1"


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
class Outline(Record, Shown):
    """The normalization layers of one model, in model order."""

    normscope: str
    model: OutlinedModel
    layers: tuple[OutlinedLayer, ...]

    def __repr__(self) -> str:
        return f"<Outline of {self.model.id}: {counted(len(self.layers), 'layer')}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the outline as plain JSON values, in the documented schema `normscope.layers/1`."""
        return {"schema": OUTLINE_SCHEMA, **to_plain(self)}

    def to_json(self, path: str | os.PathLike[str] | None = None, *, indent: int | None = None) -> str:
        """Return the outline as strict JSON text and, given a path, write it there whole or not at all."""
        return write_json(self.to_dict(), path, indent)

    @classmethod
    def from_dict(cls, data: Any) -> "Outline":
        """Build an outline from what `to_dict` returns; ReportError says what does not fit."""
        require_schema(data, OUTLINE_SCHEMA, "a list of layers")
        return from_plain(cls, data, "layers")
