"""Hooks as a context manager: every normalization layer of a model is measured while it runs.

The hooks read and never write: no output of the model changes, and none is left behind when the
context ends, whatever ended it.
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from normscope import __version__
from normscope.bins import MEMORY, TablePlan, plan_tables
from normscope.calls import LayerCalls
from normscope.capture import LayerCapture
from normscope.device_maps import is_spread
from normscope.errors import UsageError
from normscope.functional_norms import FunctionalNorms
from normscope.layers import find, select
from normscope.lengths import length_limit
from normscope.recurring import outlier_features
from normscope.report import LayerReport, ModelInfo, Report, RunInfo
from normscope.scratch import Scratch
from normscope.seen import RunMoments, most_seen
from normscope.summary import layer_report, notes_on, pooled
from normscope.tally import Tally
from normscope.tokens import Chosen, Scope, Scopes
from normscope.words import WordRoom
from normscope.wrappers import as_written, named_modules, unwrapped


def watch(
    model: nn.Module,
    *,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_call: bool = False,
    words: bool | int = False,
    table_memory: int = MEMORY,
) -> "Watcher":
    """Measure the normalization layers of any module, in whatever forward passes you run.

        with normscope.watch(model) as watcher:
            for batch in loader:
                model(**batch)
        report = watcher.report()

    Padding is left out by the forward's own `attention_mask` (B, T); for a model without one, or to
    leave out more, set `watcher.mask`. `layers` and `exclude` are globs on the layers' names. A layer
    that is called several times in a forward has its calls pooled or, `per_call`, reported one by
    one, as "name#1", "name#2". The context may be entered again and again, for example every k-th
    training step; the numbers add up.

    With `words` it is also measured what the token's identity explains, by the forward's `input_ids`.
    That takes memory for each distinct id: True keeps as many as fit 1 GiB over all layers, a number
    at most so many ids in each; of more, the lowest ids are kept and `coverage` says how many tokens
    they are.

    Tables over positions of all layers together take at most `table_memory` bytes: where the model's
    longest texts would need more, late positions share bins, and the report says which.

    A model in torch.compile, nn.DataParallel or DistributedDataParallel is the model within, with its
    names; what is compiled runs as it was written while the context is open. A process sees its own
    part of the data. Weights sharded by FSDP are not whole where hooks run: that is not supported.
    Raises UsageError when a glob matches no layer, for models that take no hooks, and where the table
    memory is too little for any bins.
    """
    return Watcher(model, layers, exclude, per_call=per_call, words=words, table_memory=table_memory)


class Watcher:
    """The open hooks on a model and what they have measured; made by `watch`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        per_call: bool = False,
        words: bool | int = False,
        table_memory: int = MEMORY,
    ) -> None:
        if words < 0:
            raise UsageError(f"words is {words}; expected True, or how many token ids to keep: 1 or more")
        self._held: tuple[nn.Module, nn.Module] | None = (model, unwrapped(model))
        self._known = tuple(map(weakref.ref, self._held))
        self._described: ModelInfo | None = None
        model = self._held[1]
        self.mask: Tensor | None = None
        """Which tokens of the forwards to come count, (B, T), true or 1 for those that do."""
        self.decoder_mask: Tensor | None = None
        """The same for the tokens of an encoder-decoder's decoder."""
        self.probing = False
        """Whether the forwards to come are only to tell the layouts of the layers' inputs."""
        norms = find(model)
        names = select([norm.name for norm in norms], layers, exclude)
        chosen = [norm for norm in norms if norm.name in names]
        room = WordRoom(len(chosen), None if words is True else words) if words else None
        scratch = Scratch()
        self.layers = [LayerCalls(norm, room, scratch, apart=per_call) for norm in chosen]
        """The layers that are measured, in order."""
        self.tally = Tally()
        self._scopes = Scopes(words=bool(words))
        self._table_memory = table_memory
        self.plan_tables(length_limit(None, getattr(model, "config", None)))
        self._functional = FunctionalNorms(model, [norm.module for norm in norms], named_modules(model))
        self._looking = ExitStack()
        self._looked = self._has_run = False
        self._hooks = ExitStack()
        self._open = False

    @property
    def model(self) -> nn.Module:
        """The model without what is wrapped around it; UsageError where it is no more.

        When the context has closed it is the caller's alone: it is freed when the caller drops it.
        """
        model = self._known[1]()
        if model is None:
            raise UsageError("the watched model is no more; expected one that is still used; watch a new one")
        return model

    @property
    def captures(self) -> list[LayerCapture]:
        """What each layer has seen so far; per call where calls are told apart."""
        return [capture for layer in self.layers for capture in layer.captures]

    @property
    def scope_notes(self) -> dict[str, None]:
        """What was not understood of the forwards' tokens, once each."""
        return self._scopes.notes

    def plan_tables(self, positions: int | None) -> TablePlan:
        """Choose the bins of late positions anew, before any forward counts, for texts of so many tokens.

        UsageError where the table memory is too little for any bins.
        """
        widths = [capture.norm.features for capture in self.captures]
        known = [width or max(widths) for width in widths]
        self.tables = plan_tables(known, positions, self._table_memory)
        self._scopes.bins = self.tables.bins
        return self.tables

    def counted_calls(self) -> list[int]:
        """Return how many calls of each layer the last forward, though it failed, has counted."""
        return [max(layer.skipped, layer.calls) for layer in self.layers]

    def skip_calls(self, skipped: Sequence[int]) -> None:
        """Let each layer pass over so many calls of the forwards to come: what they see is counted."""
        for layer, number in zip(self.layers, skipped, strict=True):
            layer.skipped = number

    def name_words(self) -> None:
        """Hand the tokens' ids on to what keeps tokens."""
        self._scopes.words = True

    def __enter__(self) -> "Watcher":
        self._held = (self._known[0]() or self.model, self.model)
        if any(parameter.is_meta for parameter in self.model.parameters()) and not is_spread(self.model):
            raise UsageError("the model is on the meta device, without weights; load it onto a real device")
        if self._open:
            raise UsageError("this watcher is already open; leave its context before entering it again")
        self._hooks.enter_context(as_written(self._held[0]))
        self._open = True
        self.tally.start()
        for layer in self.layers:
            # First of all hooks, so that it reads what the layer made, whatever another hook makes of that.
            reader = self._reader(layer)
            self._hook(layer.norm.module.register_forward_hook(reader, with_kwargs=True, prepend=True))
        for module in self.model.modules():
            if module is self.model or self._scopes.opens_one(module):
                self._hook(module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
                self._hook(module.register_forward_hook(self._done))
                self._hook(module.register_forward_hook(self._after, always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._looking.close()
        self._open = False
        self._scopes.clear()
        self.tally.stop()
        self._described = describe(self.model, type(self.model).__name__)
        self._held = None

    def report(self, *, moments: bool = False) -> Report:
        """Return what has been measured so far; the watcher may go on afterwards.

        With `moments` it carries a copy of them, so that it can be merged with others.
        """
        alive = self._known[1]()
        model = self._described if alive is None else describe(alive, type(alive).__name__)
        assert model is not None  # It is held until the context has closed, and described then.
        return self.report_as(model, self.run_info(), moments=moments)

    def run_info(self) -> RunInfo:
        """Return an account of what has been run so far."""
        run = self.tally.run_info()
        if self.tally.slots:
            return run
        # A model without tokens, an image model say: its layers know what they saw.
        return replace(run, **most_seen(capture.seen for capture in self.captures))

    def report_as(
        self,
        model: ModelInfo,
        run: RunInfo,
        warnings: Sequence[str] = (),
        *,
        moments: bool = False,
        last: bool = False,
    ) -> Report:
        """Return the report under this description of the model and the run.

        The `last` one may carry the moments themselves, and not a copy: nothing is added to them then.
        """
        layers: dict[str, LayerReport] = {}
        carried = RunMoments({}, self.tally.slots) if moments else None
        functional = self._functional.notes()
        bins = self._bins_of(run)
        run = replace(run, position_bins=bins)
        notes = [*warnings, *self.scope_notes, *functional, *self._note_on(bins)]
        for layer in self.layers:
            for name, call, capture in layer.named():
                measured = layer_report(capture)
                layers[name] = replace(measured, name=name, call=call, calls_per_forward=layer.per_forward)
                if carried:
                    carried.layers[name] = capture.seen.copy(share=last)
                notes += [f"{name}: {note}" for note in notes_on(layers[name], capture.seen)]
        notes += pooled(layers.values())
        recurring = outlier_features(layers.values())
        return Report(__version__, model, run, layers, tuple(notes), recurring, carried)

    def _bins_of(self, run: RunInfo) -> tuple[int, ...] | None:
        """Return the first positions of all bins that were seen, None where every position stands alone."""
        bins = self.tables.bins
        if bins is None or run.positions <= bins.exact:
            return None
        return tuple(bins.first(bins.rows(run.positions)))

    def _note_on(self, bins: tuple[int, ...] | None) -> list[str]:
        if bins is None or self.tables.bins is None:
            return []
        return [
            f"positions from {self.tables.bins.exact} on share bins of 2, then 4, then 8, ...: tables of "
            f"every position may take {self.tables.exact_bytes:,} bytes; see --table-memory and --max-length"
        ]

    def _hook(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._scopes.depth == 0:
            for layer in self.layers:
                layer.start()
        self._scopes.open(module, args, kwargs, Chosen(self.mask, self.decoder_mask))
        if self._scopes.depth == 1 and not self._looked:
            self._looking.enter_context(self._functional)

    def _done(self, *_: Any) -> None:
        scope = self._scopes.current
        self._looked |= self._scopes.depth == 1
        if self._scopes.depth == 1 and scope is not None and not self.probing:
            self.tally.add(scope.mask)
            self._has_run = True

    def _after(self, *_: Any) -> None:
        self._scopes.close()
        if not self._scopes.depth:
            self._looking.close()

    def _reader(self, layer: LayerCalls) -> Any:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            scope = self._scopes.current
            if scope is None and self._has_run:
                return  # Gradient checkpointing calls layers once more, outside any forward.
            if scope is None:
                layer.start()  # A layer that is called on its own.
            capture = layer.next()
            if capture is None:
                return  # It has counted these tokens in a forward that failed later on.
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if tensors and tensors[0].numel():
                given, *others = tensors
                gate = next((other for other in others if other.shape == given.shape), None)
                # Outside inference mode, whose tensors could not be updated in a later forward.
                with torch.inference_mode(False), torch.no_grad(), self._functional.paused():
                    parts = (scope or Scope(None)).parts
                    capture.add(given, output, parts, gate=gate, probe=self.probing)

        return read


def describe(model: nn.Module, name: str) -> ModelInfo:
    """Return what is known of a model from the object alone."""
    parameters = list(model.parameters())
    first = parameters[0] if parameters else torch.zeros(())
    # Only a model that is spread over devices has several, and weights that come and go.
    devices = dict.fromkeys("offloaded" if p.is_meta else str(p.device) for p in parameters)
    return ModelInfo(
        id=name,
        revision=None,
        commit=None,
        architecture=type(model).__name__,
        dtype=str(first.dtype).removeprefix("torch."),
        device=" and ".join(devices) or str(first.device),
        parameters=sum(p.numel() for p in parameters),
    )
