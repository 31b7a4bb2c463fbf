"""Result of `layers`: a model's normalization layers before anything has run."""

from dataclasses import dataclass
from typing import Any

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
class LayerReaders(Record):
    """What reads a layer's output in one forward.

    `linears` are the modules that multiply it with a weight of their own, and `others` everything else,
    such as an addition, one phrase each. `obstacle` says why a change of the layer's scale and shift
    cannot be undone in the weights of its readers, None if it can.
    """

    linears: tuple[str, ...]
    others: tuple[str, ...]
    obstacle: str | None


@dataclass(frozen=True, eq=False)
class OutlinedLayer(Record):
    """One normalization layer.

    `features` is None if only the layer's input determines it; `eps` is NaN if the layer has none.
    `place` is one of embeddings, pre-norm, post-norm, final, per-head, head, other: see
    `normscope.norms.placement.Places`. `readers` is None if they were not looked for.
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
    readers: LayerReaders | None = None


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

    def mappings(self) -> list[dict[str, Any]]:
        """Return which Linears a layer's scale can move into, as SmoothQuant and AWQ recipes have it.

        Each is {"smooth_layer": name, "balance_layers": [name, ...]}, the form of llm-compressor's
        AWQMapping. Layers with other readers, an obstacle or no weight of their own are left out.
        """
        return [
            {"smooth_layer": layer.name, "balance_layers": list(layer.readers.linears)}
            for layer in self.layers
            if layer.readers is not None and layer.readers.obstacle is None and "weight" in layer.affine
        ]

    def __repr__(self) -> str:
        return f"<Outline of {self.model.id}: {counted(len(self.layers), 'layer')}>"
