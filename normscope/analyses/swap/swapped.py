"""Replaces a model's normalization layers for as long as a context is open.

Each replaced layer still runs, and a hook returns another output in its place. Weights and modules never
change, and the hooks are removed when the context ends, also by an error.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from normscope.analyses.swap.batch_statistics import BatchStatistics
from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import APART, BATCH, BY_TEXT, POOLED, RMSNORM, require_first
from normscope.analyses.swap.replacement import Replacement
from normscope.analyses.swap.text_rows import TextRows
from normscope.capture.audio_frames import STRIDED
from normscope.capture.hooks import shares_memory
from normscope.capture.layer_capture import LayerCapture
from normscope.capture.scope import Scope
from normscope.capture.token_scopes import Scopes, UserMasks
from normscope.errors import UsageError
from normscope.escaping import counted
from normscope.norms.detection import NormLayer, find, select
from normscope.norms.module_tree import uncompiled, unwrapped
from normscope.results.inspect import Report
from normscope.statistics.layout import lead_axes, to_rows

# Layers that an open context replaces: a second one would replace the output of the first.
_REPLACED: "WeakSet[nn.Module]" = WeakSet()
T = TypeVar("T")


@dataclass
class _Layer:
    """A layer to replace, its replacement, and the capture that settles its formula at its first call."""

    norm: NormLayer
    replacement: Replacement
    capture: LayerCapture


class Swap:
    """The layers of one model that can be replaced; `swapped` opens one.

    A token counts for the statistics of a batch or a text if both `mask` (B, T) and the forward's own
    attention mask say so; without a `mask`, all tokens count that are not padding. `decoder_mask` is the
    mask of an encoder-decoder's decoder.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str = "batchnorm",
        source: Report | Calibration | None = None,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        first: str = POOLED,
    ) -> None:
        require_first(first, kind)
        self.model, self.kind, self._first = unwrapped(model), kind, first
        self.mask: Tensor | None = None
        self.decoder_mask: Tensor | None = None
        calibration = Calibration.of_report(source) if isinstance(source, Report) else source
        norms = find(self.model)
        names = select([norm.name for norm in norms], layers, exclude)
        self._layers: dict[str, _Layer] = {}
        for norm in norms:
            statistics = None if calibration is None else calibration.layers.get(norm.name)
            has_statistics = calibration is None or statistics is not None
            if norm.name in names and norm.kind in ("layernorm", "rmsnorm", "other") and has_statistics:
                replacement = Replacement(norm, kind, statistics, first)
                self._layers[norm.name] = _Layer(norm, replacement, LayerCapture(norm))
        self._scopes = Scopes()
        self._batch: BatchStatistics | None = None
        if not self._layers:
            got = f"none of {counted(len(names), 'layer')} can be replaced"
            raise UsageError(
                f"{got}; expected a LayerNorm or an RMSNorm that the statistics know; choose other layers"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, in the model's order."""
        return tuple(self._layers)

    @property
    def replacements(self) -> dict[str, Replacement]:
        """The layers' replacements, by name."""
        return {name: layer.replacement for name, layer in self._layers.items()}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The layers themselves, by name."""
        return {name: layer.norm.module for name, layer in self._layers.items()}

    def recalibrate(self, name: str, statistics: Statistics) -> None:
        """Replace one layer by other statistics from now on."""
        layer = self._layers[name]
        layer.replacement = Replacement(layer.norm, self.kind, statistics, self._first)

    def align(self, layouts: Mapping[str, str | None]) -> None:
        """Tell the layouts of the layers' inputs, by name, where sizes alone leave a doubt."""
        for name, layer in self._layers.items():
            layer.capture.state.known_layout = layouts.get(name)

    @contextmanager
    def replacing(self, names: Collection[str]) -> Iterator["Swap"]:
        """Replace the layers of these names until the context ends."""
        layers = [self._layers[name] for name in names]
        for layer in layers:
            if layer.norm.module in _REPLACED:
                got = f"{layer.norm.name} is replaced already"
                raise UsageError(f"{got}; expected it as it was; leave that context first")
        with ExitStack() as open_contexts:
            open_contexts.enter_context(uncompiled())
            open_contexts.callback(self._scopes.clear)
            for layer in layers:
                module = layer.norm.module
                _REPLACED.add(module)
                open_contexts.callback(_REPLACED.discard, module)
                hook = module.register_forward_hook(self._replacer(layer), with_kwargs=True)
                open_contexts.enter_context(hook)
            if self.kind in (BATCH, *BY_TEXT) or self._first == APART:
                self._hook_scopes(open_contexts)
            yield self

    def _hook_scopes(self, hooks: ExitStack) -> None:
        """Hook the modules that tell which tokens of a call are padding: statistics leave it out."""
        for module in self.model.modules():
            if isinstance(module, STRIDED):
                hooks.enter_context(module.register_forward_hook(self._scopes.convolved, prepend=True))
            if module is self.model or self._scopes.opens_one(module):
                before = module.register_forward_pre_hook(self._open_scope, with_kwargs=True, prepend=True)
                hooks.enter_context(before)
                hooks.enter_context(module.register_forward_hook(self._close_scope, always_call=True))

    def replace_in_parts(self, names: Collection[str], runs: Sequence[Callable[[], T]]) -> list[T]:
        """Replace layers, with the statistics of a whole batch, while its parts run; for the kind BATCH."""
        self._batch = BatchStatistics()
        try:
            with self.replacing(names):
                return self._batch.together(runs)
        finally:
            self._batch = None

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Find the layers' formulas by their own outputs in a forward; none is replaced."""
        with ExitStack() as open_contexts:
            open_contexts.enter_context(uncompiled())
            for layer in self._layers.values():
                hook = layer.norm.module.register_forward_hook(_settler(layer), with_kwargs=True)
                open_contexts.enter_context(hook)
            yield

    def _open_scope(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._scopes.open(module, args, kwargs, UserMasks(self.mask, self.decoder_mask))

    def _close_scope(self, *_: Any) -> None:
        self._scopes.close()

    def _replacer(self, layer: _Layer) -> Any:
        # A closure, since a deep copy of a module copies the objects that a method or a partial holds.
        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            x = _first_tensor(args, kwargs)
            scope = self._scopes.current or Scope(None)
            _require_separate(layer.norm.name, x, output)
            if not layer.norm.settled:
                _settle(layer, x, output, scope)
            if self.kind == RMSNORM and layer.norm.kind == "rmsnorm":
                return None
            valid = _valid_rows(layer, x, scope) if self.kind == BATCH else None
            batch = None
            if self._batch is not None and valid is not None:
                batch = self._batch.of(layer.norm.name, valid)
            texts = None
            if layer.replacement.by_text:
                texts = TextRows.of(layer.norm, x, scope, layer.capture.state.known_layout)
            return layer.replacement(x, valid, batch, texts).to(output.dtype)

        return replace


def swapped(
    model: nn.Module,
    *,
    kind: str = "batchnorm",
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    statistics: Report | Calibration | None = None,
    first: str = POOLED,
) -> AbstractContextManager[Swap]:
    """Put BatchNorm-style layers in place of a model's LayerNorms and RMSNorms until the context ends.

        report = normscope.inspect(model, texts, tokenizer=tokenizer)
        with normscope.swapped(model, statistics=report):
            model(**batch)

    `kind` is "batchnorm", with the mean and variance per feature that `statistics` holds,
    "batchnorm-fitted", with the least-squares line per feature, "batchnorm-batch", with the statistics of
    each batch, "frozen", with one scale for all tokens, "identity", or "rmsnorm", which does not subtract the
    mean. "scale-feature" and "centre-feature" replace only the scale or only the centre by that of
    `statistics`, "scale-sequence" and "centre-sequence" by that of the text in this forward. "dyt" and "derf"
    are gamma tanh(alpha x) + beta, and the same with erf; see `Replacement`. With `first` "apart", "frozen"
    has one scale for position 0 of each text, its first token that is no padding, and one for the others.

    `statistics` may be a report for "batchnorm", "scale-feature" and "centre-feature", and what `calibrate`
    or `read_calibration` returns for every kind, calibrated for that kind if it is "dyt" or "derf";
    "batchnorm-batch", "identity", "rmsnorm", "scale-sequence" and "centre-sequence" need none. `layers` and
    `exclude` are globs on the layers' names. Layers that are no LayerNorm or RMSNorm stay as they are.

    A layer that is called several times in a forward is replaced at every call. The context's value has
    a `mask`, to leave more tokens than padding out of the statistics of a batch or a text. Gradients flow.
    Contexts on different layers may be nested. Raises UsageError for another kind, when a glob matches
    no layer, when the statistics lack what the kind needs, and for a layer that is replaced already.
    """
    swap = Swap(model, kind, statistics, layers, exclude, first)
    return swap.replacing(swap.names)


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _require_separate(name: str, x: Tensor, output: Any) -> None:
    """Raise UsageError unless a layer's output is a tensor like its input x, and not in its memory."""
    if not isinstance(output, Tensor) or output.shape != x.shape:
        got = "its output is not one tensor in the shape of its input; expected one"
    elif shares_memory(output, x):
        got = "it writes its output over its input; expected one that keeps it"
    else:
        return
    raise UsageError(f"{name}: {got}; leave it out, see --exclude")


def _settler(layer: _Layer) -> Any:
    def settle(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and not layer.norm.settled:
            _settle(layer, _first_tensor(args, kwargs), output, Scope(None))

    return settle


def _settle(layer: _Layer, x: Tensor, output: Tensor, scope: Scope) -> None:
    """Find the layer's formula by its own output, before another takes its place."""
    # Tensors of inference mode could not be used outside it, and the capture outlives the context.
    with torch.inference_mode(False), torch.no_grad():
        layer.capture.add(x, output, scope.parts)
        layer.capture.state = layer.capture.state.facts()  # The moments are of no use here.


def _valid_rows(layer: _Layer, x: Tensor, scope: Scope) -> Tensor | None:
    """Return the rows of a layer's input x that count, (V, D), None if x does not have its features."""
    norm = layer.norm
    lead = lead_axes(tuple(x.shape), norm.feature_axis, norm.features)
    if lead is None:
        return None
    rows = to_rows(x, norm.feature_axis, norm.features)
    parts = scope.parts(lead, norm.feature_axis, math.prod(lead), x.device, layer.capture.state.known_layout)
    return parts[0].take(rows) if parts else rows
