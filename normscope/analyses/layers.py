"""Lists a model's normalization layers from its configuration alone: no weights, no forward pass."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from normscope._version import __version__
from normscope.capture.watcher import watch
from normscope.models.loading import quiet, skeleton
from normscope.models.location import Loading
from normscope.norms.detection import NormLayer, find
from normscope.norms.placement import Places
from normscope.norms.scale_invariance import ANY_WIDTH, MOST_WEIGHTS, filled, own_chance
from normscope.results.layers import Outline, OutlinedLayer, OutlinedModel

# The input that a norm is tried on: texts and positions; then the same for channels on axis 1.
_TRIED = (1, 3)


def list_layers(
    model: str | os.PathLike[str],
    options: Loading = Loading(),
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Outline:
    """List the normalization layers of a model: what each is, and its place in the model.

    `model` is a Hub id, a folder in Hugging Face layout, or "demo"; its config.json is all that is read.
    The model is built on torch's meta device, without memory for weights. Where only a call can
    tell what a layer does, one layer of its class and size is filled at random and called alone.
    `layers` and `exclude` are globs that choose the layers to list.

    Raises ModelError when there is no such model or it cannot be built, UsageError when a glob
    matches nothing or options clash.
    """
    built = skeleton(model, options)
    network: nn.Module = built.model
    found = find(network, layers, exclude)
    places, tried = Places(network), _Tried()
    with quiet(), torch.no_grad(), _one_thread():
        for norm in found:
            tried.settle(norm)
        listed = tuple(_listed(norm, places) for norm in found)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    about = OutlinedModel(built.id, built.revision, built.commit, type(network).__name__, parameters)
    return Outline(__version__, about, listed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a few rows, threads that wait for each other take longer than the sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _listed(norm: NormLayer, places: Places) -> OutlinedLayer:
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


class _Tried:
    """What calls of single norms have told, shared by all of one class, size and settings."""

    def __init__(self) -> None:
        self._known: dict[str, NormLayer] = {}

    def settle(self, norm: NormLayer) -> None:
        """Let a call decide the layer's kind and formula, unless its class has told all there is."""
        if norm.feature_axis != -1:
            return
        key = _key(norm.module)
        if key not in self._known:
            self._known[key] = _called(norm)
        told = self._known[key]
        norm.kind, norm.formula, norm.settled = told.kind, told.formula, told.settled


def _key(module: nn.Module) -> str:
    """What makes two norms do the same: class, plain settings, shapes of weights and buffers."""
    plain = {name: v for name, v in vars(module).items() if isinstance(v, str | int | float | tuple | None)}
    held = [*module.named_parameters(), *module.named_buffers()]
    shapes = [(name, list(tensor.shape)) for name, tensor in held]
    kind = f"{type(module).__module__}.{type(module).__qualname__} {id(type(module))}"
    return json.dumps([kind, plain, shapes], sort_keys=True, default=str)


def _called(norm: NormLayer) -> NormLayer:
    """Fill a copy of the layer and call it; where no input will do, what its class says stands."""
    told, features = norm, norm.features or ANY_WIDTH
    if features > MOST_WEIGHTS:
        return norm
    dice = torch.Generator().manual_seed(0)
    try:
        module = filled(norm.module, dice)
        x = _input(features, norm, dice)
    except (Exception, SystemExit):  # a foreign class, copied out of its model: anything may go wrong
        return norm
    for given in (x, x.transpose(1, 2).reshape(_TRIED[0], features, _TRIED[1], 1)):
        watcher = watch(module)
        try:
            with watcher, own_chance():
                module(given.clone())
        except (Exception, SystemExit):  # it wants another shape, or more than one input
            continue
        (told,) = (capture.norm for capture in watcher.captures)
        if told.formula is not None:
            break
    return told


def _input(features: int, norm: NormLayer, dice: torch.Generator) -> Tensor:
    """Return random rows with a mean; where the layer hides its eps, rows so small that it shows."""
    x = torch.randn((*_TRIED, features), generator=dice) + torch.rand((*_TRIED, 1), generator=dice)
    smallest = -5 if math.isnan(norm.eps) else 0
    return x * torch.logspace(0, smallest, math.prod(_TRIED)).reshape(*_TRIED, 1)
