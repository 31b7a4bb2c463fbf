"""Lists a model's normalization layers from its configuration alone: no weights, no forward pass."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from normscope._version import __version__
from normscope.analyses.layer_readers import find_readers
from normscope.capture.recorder import Recorder
from normscope.models.loading import quiet, skeleton
from normscope.models.location import Loading
from normscope.norms.detection import NormLayer, find
from normscope.norms.placement import Places
from normscope.norms.scale_invariance import ANY_WIDTH, MAX_WEIGHTS, preserve_random_state, random_copy
from normscope.results.layers import Outline, OutlinedLayer, OutlinedModel
from normscope.results.provenance import provenance_now

# Texts and positions of the input on which a norm is tried.
_TEXTS, _POSITIONS = 1, 3


def list_layers(
    model: str | os.PathLike[str],
    options: Loading = Loading(),
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    readers: bool = False,
) -> Outline:
    """List the normalization layers of a model, each with its formula and its place in the model.

    `model` is a Hub id, a folder in Hugging Face layout or of a PEFT adapter, a GGUF file, or "demo"; only
    its configuration is read.
    The model is built on torch's meta device, without memory for weights. If only a call can show what a
    layer computes, one layer of its class and size gets random weights and is called alone.
    `layers` and `exclude` are globs that choose the layers to list. With `readers`, one forward on the
    meta device shows which modules read each layer's output.

    Raises ModelError when there is no such model, or it cannot be built or run on the meta device;
    UsageError when a glob matches nothing or options clash.
    """
    loaded = skeleton(model, options)
    network: nn.Module = loaded.model
    norms = find(network, layers, exclude)
    places, formulas = Places(network), _Formulas()
    with quiet(), torch.no_grad(), _one_thread():
        for norm in norms:
            formulas.settle(norm)
        outlined = tuple(_outline(norm, places) for norm in norms)
        if readers:
            found = find_readers(network, norms, loaded.id)
            outlined = tuple(replace(layer, readers=found[layer.name]) for layer in outlined)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    about = OutlinedModel(loaded.id, loaded.revision, loaded.commit, type(network).__name__, parameters)
    return Outline(__version__, about, outlined, provenance_now(loaded.commit))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: on a few rows, threads that wait for each other take longer than the sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _outline(norm: NormLayer, places: Places) -> OutlinedLayer:
    return OutlinedLayer(
        name=norm.name,
        index=norm.index,
        module=type(norm.module).__name__,
        kind=norm.kind,
        features=norm.features or None,
        eps=norm.eps,
        affine=norm.affine,
        parameters=sum(parameter.numel() for parameter in norm.module.parameters()),
        place=places.of(norm.name, norm.features),
    )


class _Formulas:
    """Formulas found by calls of single norms, shared by all norms of one class, size and settings."""

    def __init__(self) -> None:
        self._called: dict[str, NormLayer] = {}

    def settle(self, norm: NormLayer) -> None:
        """Let a call decide the layer's kind and formula, unless its class already determines them."""
        if norm.feature_axis != -1:
            return
        key = _key(norm.module)
        if key not in self._called:
            self._called[key] = _call(norm)
        called = self._called[key]
        norm.kind, norm.formula, norm.settled = called.kind, called.formula, called.settled


def _key(module: nn.Module) -> str:
    """Return a key that is equal for norms with the same class, plain settings and tensor shapes."""
    plain = {name: v for name, v in vars(module).items() if isinstance(v, str | int | float | tuple | None)}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    shapes = [(name, list(tensor.shape)) for name, tensor in tensors]
    # Two classes can share a name: one defined in a function, or loaded twice.
    kind = f"{type(module).__module__}.{type(module).__qualname__} {id(type(module))}"
    return json.dumps([kind, plain, shapes], sort_keys=True, default=str)


def _call(norm: NormLayer) -> NormLayer:
    """Return the norm with what a call of a random copy shows, or unchanged if no input works."""
    called, features = norm, norm.features or ANY_WIDTH
    if features > MAX_WEIGHTS:
        return norm
    generator = torch.Generator().manual_seed(0)
    try:
        module = random_copy(norm.module, generator)
        x = _input(features, norm, generator)
    except (Exception, SystemExit):  # A copy of an unknown class may raise anything.
        return norm
    channels = x.transpose(1, 2).reshape(_TEXTS, features, _POSITIONS, 1)  # features on axis 1, as in images
    for inputs in (x, channels):
        recorder = Recorder(module)
        try:
            with recorder, preserve_random_state():
                module(inputs.clone())
        except (Exception, SystemExit):  # It needs another shape, or more inputs.
            continue
        (called,) = (capture.norm for capture in recorder.captures)
        if called.formula is not None:
            break
    return called


def _input(features: int, norm: NormLayer, generator: torch.Generator) -> Tensor:
    """Return random rows with a mean; if eps is unknown, some rows so small that eps matters."""
    x = torch.randn((_TEXTS, _POSITIONS, features), generator=generator)
    x += torch.rand((_TEXTS, _POSITIONS, 1), generator=generator)
    smallest = -5 if math.isnan(norm.eps) else 0
    return x * torch.logspace(0, smallest, _TEXTS * _POSITIONS).reshape(_TEXTS, _POSITIONS, 1)
