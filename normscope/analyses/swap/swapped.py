"""Replaces a model's normalization layers for as long as a context is open.

Each replaced layer still runs; a hook returns another output in its place, so that neither weights nor
modules change, and all is as it was when the context ends, whatever ended it.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from normscope.analyses.swap.batch_statistics import BatchStatistics
from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.options import BATCH, require_kind
from normscope.analyses.swap.replacement import Replacement, Statistics
from normscope.capture.audio_frames import STRIDED
from normscope.capture.hooks import shares_memory
from normscope.capture.layer_capture import LayerCapture
from normscope.capture.scope import Scope
from normscope.capture.token_scopes import Scopes, UserMasks
from normscope.errors import UsageError
from normscope.escaping import counted
from normscope.norms.detection import NormLayer, find, select
from normscope.norms.module_tree import as_written, unwrapped
from normscope.results.inspect import Report
from normscope.statistics.layout import lead_axes, to_rows

_REPLACED: "WeakSet[nn.Module]" = WeakSet()
T = TypeVar("T")


@dataclass
class _Layer:
    """A layer to replace, what replaces it, and what settles its formula at its first call."""

    replacement: Replacement
    capture: LayerCapture
    module: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.module = self.replacement.norm.module


class Swap:
    """The layers of one model that can be replaced; `swapped` opens one.

    `mask` (B, T) says which tokens count for the statistics of a batch, beside the forward's own
    attention mask; None means all that are not padding. `decoder_mask` is that of an encoder-decoder's
    decoder.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str = "batchnorm",
        statistics: Report | Calibration | None = None,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        require_kind(kind)
        self.model, self.kind = unwrapped(model), kind
        self.mask: Tensor | None = None
        self.decoder_mask: Tensor | None = None
        known = Calibration.of_report(statistics) if isinstance(statistics, Report) else statistics
        norms = find(self.model)
        names = select([norm.name for norm in norms], layers, exclude)
        chosen = [norm for norm in norms if norm.name in names and _may_be_replaced(norm, known)]
        self._layers = {norm.name: _layer(norm, kind, known) for norm in chosen}
        self._scopes = Scopes()
        self._batch: BatchStatistics | None = None
        if not chosen:
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
        """What replaces them, by name."""
        return {name: layer.replacement for name, layer in self._layers.items()}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The layers themselves, by name."""
        return {name: layer.module for name, layer in self._layers.items()}

    def recalibrate(self, name: str, statistics: Statistics) -> None:
        """Take other statistics for one layer."""
        layer = self._layers[name]
        layer.replacement = Replacement(layer.replacement.norm, self.kind, statistics)

    @contextmanager
    def replacing(self, names: Collection[str]) -> Iterator[None]:
        """Replace the layers of these names until the context ends."""
        layers = [self._layers[name] for name in names]
        taken = next((layer for layer in layers if layer.module in _REPLACED), None)
        if taken is not None:
            name = taken.replacement.norm.name
            raise UsageError(f"{name} is replaced already; expected it as it was; leave that context first")
        with ExitStack() as open_:
            open_.enter_context(as_written())
            open_.callback(self._scopes.clear)
            for layer in layers:
                _REPLACED.add(layer.module)
                open_.callback(_REPLACED.discard, layer.module)
                hook = layer.module.register_forward_hook(self._replacing(layer), with_kwargs=True)
                open_.callback(hook.remove)
            for module in self.model.modules() if self.kind == BATCH else ():
                if isinstance(module, STRIDED):
                    open_.callback(module.register_forward_hook(self._scopes.convolved, prepend=True).remove)
                if module is self.model or self._scopes.opens_one(module):
                    before = module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
                    open_.callback(before.remove)
                    open_.callback(module.register_forward_hook(self._after, always_call=True).remove)
            yield

    def together(self, names: Collection[str], runs: Sequence[Callable[[], T]]) -> list[T]:
        """Replace layers while the parts of one batch run; for BATCH by the statistics of all of it."""
        self._batch = BatchStatistics() if self.kind == BATCH else None
        try:
            with self.replacing(names):
                return [run() for run in runs] if self._batch is None else self._batch.together(runs)
        finally:
            self._batch = None

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Find the layers' formulas by what they give in a forward, and replace none."""
        with ExitStack() as open_:
            open_.enter_context(as_written())
            for layer in self._layers.values():
                hook = layer.module.register_forward_hook(self._settling(layer), with_kwargs=True)
                open_.callback(hook.remove)
            yield

    def _settling(self, layer: _Layer) -> Any:
        def settle(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if isinstance(output, Tensor) and not layer.replacement.norm.settled:
                _settle(layer, _given(args, kwargs), output, Scope(None))

        return settle

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._scopes.open(module, args, kwargs, UserMasks(self.mask, self.decoder_mask))

    def _after(self, *_: Any) -> None:
        self._scopes.close()

    def _replacing(self, layer: _Layer) -> Any:
        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = _given(args, kwargs)
            scope = self._scopes.current or Scope(None)
            if not isinstance(output, Tensor) or output.shape != given.shape:
                name = layer.replacement.norm.name
                raise UsageError(
                    f"{name}: its output is not one tensor in the shape of its input; expected one; "
                    "leave it out, see --exclude"
                )
            if shares_memory(output, given):
                name = layer.replacement.norm.name
                raise UsageError(
                    f"{name}: it writes its output over its input; expected one that keeps it; "
                    "leave it out, see --exclude"
                )
            if not layer.replacement.norm.settled:
                _settle(layer, given, output, scope)
            valid = _valid(layer, given, scope) if self.kind == BATCH else None
            batch = None
            if self._batch is not None:
                norm, rows = layer.replacement.norm, valid
                if rows is None:
                    rows = to_rows(given, norm.feature_axis, norm.features)
                batch = self._batch.of(norm.name, rows)
            return layer.replacement(given, valid, batch).to(output.dtype)

        return replace


def swapped(
    model: nn.Module,
    *,
    kind: str = "batchnorm",
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    statistics: Report | Calibration | None = None,
) -> AbstractContextManager[Swap]:
    """Put BatchNorm-style layers in place of a model's LayerNorms and RMSNorms until the context ends.

        report = normscope.inspect(model, texts, tokenizer=tokenizer)
        with normscope.swapped(model, statistics=report):
            model(**batch)

    `kind` is "batchnorm", with the mean and variance per feature that `statistics` holds,
    "batchnorm-fitted", with the best line per feature, "batchnorm-batch", with the statistics of each
    batch, "frozen", with one scale for all tokens, or "identity"; see `Replacement`. A report does for
    "batchnorm", what `calibrate` or `read_calibration` returns for all, and the last and the third need
    none. `layers` and `exclude` are globs on the layers' names; what is no LayerNorm or RMSNorm stays.

    A layer that is called several times in a forward is replaced at every call. The context's value has
    a `mask` for tokens that a batch's statistics are to leave out, beside padding. Gradients flow.
    Contexts on different layers may be nested. Raises UsageError for another kind, when a glob matches
    no layer, when the statistics lack what the kind needs, and for a layer that is replaced already.
    """
    return _opened(Swap(model, kind, statistics, layers, exclude))


@contextmanager
def _opened(swap: Swap) -> Iterator[Swap]:
    with swap.replacing(swap.names):
        yield swap


def _may_be_replaced(norm: NormLayer, known: Calibration | None) -> bool:
    return norm.kind in ("layernorm", "rmsnorm", "other") and (known is None or norm.name in known.layers)


def _layer(norm: NormLayer, kind: str, known: Calibration | None) -> _Layer:
    statistics = None if known is None else known.layers[norm.name]
    return _Layer(Replacement(norm, kind, statistics), LayerCapture(norm))


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))


def _settle(layer: _Layer, given: Tensor, output: Tensor, scope: Scope) -> None:
    """Find the layer's formula by its own output, before that is replaced."""
    with torch.inference_mode(False), torch.no_grad():
        layer.capture.add(given, output, scope.parts)
        layer.capture.state.moments = None


def _valid(layer: _Layer, given: Tensor, scope: Scope) -> Tensor | None:
    """Return the rows of a layer's input that count, (V, D); None for all."""
    norm = layer.replacement.norm
    lead = lead_axes(tuple(given.shape), norm.feature_axis, norm.features)
    if lead is None:
        return None
    whole = math.prod(lead)
    parts = scope.parts(lead, norm.feature_axis, whole, given.device, layer.capture.state.known_layout)
    return parts[0].take(to_rows(given, norm.feature_axis, norm.features)) if parts else None
