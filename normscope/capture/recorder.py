"""Records the statistics of every normalization layer of a model while it runs, by hooks.

The hooks read and never write, so no output of the model changes. All hooks are removed when the
context ends, also after an exception.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.capture.audio_frames import STRIDED
from normscope.capture.counters import Tally
from normscope.capture.hooks import BACKWARD, Hook, InputCopy, Turn, attributes, uncounted
from normscope.capture.layer_calls import LayerCalls
from normscope.capture.layer_capture import LayerCapture
from normscope.capture.observers import ElementCounts, Observer, TokenIdentity
from normscope.capture.outer_norms import OuterNorms
from normscope.capture.report_assembly import assemble
from normscope.capture.scope import Scope
from normscope.capture.token_rules import rules_of, token_selection
from normscope.capture.token_scopes import Mask, Scopes, UserMasks
from normscope.capture.watched_model import describe, require_content, require_model, require_number
from normscope.data.max_length import length_limit
from normscope.errors import NormscopeError, UsageError
from normscope.escaping import reason
from normscope.norms.detection import find, select, untried
from normscope.norms.functional import FunctionalNorms
from normscope.norms.module_tree import is_spread, named_modules, uncompiled, unwrapped
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.inspect import Report
from normscope.statistics.buffers import Scratch
from normscope.statistics.layer_state import LayerState, RunMoments, maximum_counts
from normscope.statistics.position_bins import MEMORY, TablePlan, plan_tables
from normscope.statistics.token_identity import TokenRoom


class Recorder:
    """Hooks on a model, and what they have measured so far; the options are those of `watch`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        *,
        per_call: bool = False,
        words: bool | int = False,
        curve: bool = False,
        table_memory: int = MEMORY,
        exclude_tokens: Sequence[int] = (),
        skip_first: int = 0,
    ) -> None:
        require_model(model)
        require_number("words", words, "True, or how many token ids to keep: 1 or more", minimum=0)
        require_number("table_memory", table_memory, "a number of bytes")
        model = unwrapped(model)
        self._model: nn.Module | None = model
        # Weak, so that a closed watcher does not keep the model in memory.
        self._reference = weakref.ref(model)
        self._described: ModelInfo | None = None
        self.mask: Tensor | None = None
        """See `Watcher.mask`; a `batch` sets other masks for its forwards."""
        self.decoder_mask: Tensor | None = None
        """See `Watcher.decoder_mask`."""
        self._probing = False
        self._skip: Sequence[int] = ()
        norms = find(model)
        names = select([norm.name for norm in norms], layers, exclude)
        chosen = [norm for norm in norms if norm.name in names]
        room = TokenRoom(len(chosen), None if words is True else words)
        observers: list[Observer] = [TokenIdentity(room)] if words else []
        observers += [ElementCounts()] if curve else []
        scratch = Scratch()  # One for all layers, because only one layer is measured at a time.
        self.layers = [LayerCalls(norm, observers, scratch, per_call=per_call) for norm in chosen]
        """The layers that are measured, in order."""
        selection = token_selection(model, exclude_tokens, skip_first)
        self.tally = Tally(selection)
        self._scopes = Scopes(rules=rules_of(selection))
        self.scope_notes = self._scopes.notes
        """Notes on tokens and masks that could not be read, each note once."""
        self._table_memory = table_memory
        self.plan_tables(length_limit(None, getattr(model, "config", None)))
        self._untried = untried(model)
        self._functional = FunctionalNorms(model, [norm.module for norm in norms], named_modules(model))
        self._outer = OuterNorms(model, [norm.module for norm in norms], named_modules(model))
        self._searching = ExitStack()
        self._searched = self._has_run = False
        self._hooks = ExitStack()
        self._open = False
        self.guest = True
        """Whether the forwards belong to the user's code; then they continue when counting fails."""
        self._turn = Turn()

    @property
    def model(self) -> nn.Module:
        """The model without its wrappers; UsageError when it no longer exists.

        After the context has closed, the watcher does not keep the model alive.
        """
        model = self._reference()
        if model is None:
            raise UsageError("the watched model was deleted; expected one in use; watch a new one")
        return model

    def is_of(self, model: nn.Module) -> bool:
        """Whether it records this model, with or without wrappers."""
        return self._reference() is unwrapped(model)

    @property
    def captures(self) -> list[LayerCapture]:
        """The captures of all layers, in order; one for each call if calls are reported separately."""
        return [capture for layer in self.layers for capture in layer.captures]

    def plan_tables(self, positions: int | None) -> TablePlan:
        """Choose and return the bins of late positions for texts of `positions` tokens, before any forward.

        Raises UsageError when the table memory is too small for any bins.
        """
        widths = [capture.norm.features for capture in self.captures]
        # A layer of unknown width (0) is planned like the widest one.
        widths = [width or max(widths) for width in widths]
        self.tables = plan_tables(widths, positions, self._table_memory)
        self._scopes.bins = self.tables.bins
        return self.tables

    def counted_calls(self) -> list[int]:
        """Return how many calls of each layer the last forward has counted, even if it failed later."""
        return [max(layer.skipped, layer.calls) for layer in self.layers]

    def batch(
        self, mask: Mask = None, decoder_mask: Mask = None, skip: Sequence[int] = (), *, probe: bool = False
    ) -> AbstractContextManager[None]:
        """Use these masks for the forwards inside, in which each layer skips its number of first calls.

        A `probe` counts nothing: it only finds the layouts of the layers' inputs.
        """
        return attributes(self, mask=mask, decoder_mask=decoder_mask, _skip=skip, _probing=probe)

    def renewed(self) -> "Recorder":
        """Return a recorder of the same layers, settled as these are, that has measured nothing yet."""
        self._require_closed()
        new = copy(self)
        new.layers = [layer.renewed() for layer in self.layers]
        new.tally, new._scopes, new._turn = Tally(), Scopes(), Turn()
        new.scope_notes, new._scopes.bins = new._scopes.notes, self.tables.bins
        new._hooks, new._searching, new._has_run = ExitStack(), ExitStack(), False
        return new

    def merge(self, tally: Tally, states: Sequence[Sequence[LayerState]]) -> None:
        """Add what another recorder of the same layers has measured: the states of each layer's captures."""
        self.tally.merge(tally)
        for layer, new in zip(self.layers, states, strict=True):
            layer.resize(max(len(new), len(layer.captures)))
            for capture, state in zip(layer.captures, new, strict=False):
                # The other's state is on the CPU.
                capture.state = capture.state.copy()
                capture.state.merge(state)

    def _require_closed(self) -> None:
        if self._open:
            raise UsageError("this watcher is already open; leave its context before entering it again")

    def __enter__(self) -> "Recorder":
        self._model = self.model
        if any(parameter.is_meta for parameter in self.model.parameters()) and not is_spread(self.model):
            raise UsageError("the model is on the meta device, without weights; load it onto a real device")
        self._require_closed()
        self._hooks.enter_context(uncompiled())
        self._open = True
        self.tally.start()
        enter = self._hooks.enter_context  # Leaving a handle's context removes its hook.
        before, done, after = Hook(self._before), Hook(self._done), Hook(self._after)
        for layer in self.layers:
            module, original = layer.norm.module, InputCopy(layer.norm.module)
            # Classes of torch itself do not overwrite their input, so they need no copy.
            if original.foreign:
                enter(module.register_forward_pre_hook(Hook(original.keep), with_kwargs=True))
            # Before all other hooks: it must read the layer's own output, not that of another hook.
            enter(module.register_forward_hook(self._reader(layer, original), with_kwargs=True, prepend=True))
        for handle in self._outer.hooks(self._guarded):
            enter(handle)
        for module in self.model.modules():
            if isinstance(module, STRIDED):
                enter(module.register_forward_hook(self._guarded(self._scopes.convolved), prepend=True))
            if module is self.model or self._scopes.opens_one(module):
                enter(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
                enter(module.register_forward_hook(done))
                # Also after an exception in the forward, so that no scope stays open.
                enter(module.register_forward_hook(after, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        self._searching.close()
        self._open = False
        self._scopes.clear()
        self._turn = Turn()
        self.tally.stop()
        self._described = describe(self.model, type(self.model).__name__)
        # The description is all that a report needs: from here on only the caller holds the model.
        self._model = None

    def report(self, *, moments: bool = False) -> Report:
        """Return the report on all forwards so far; the watcher can continue afterwards.

        With `moments` the report carries a copy of the moments and can be merged with others.
        Raises UsageError when there is neither a layer nor a warning to report.
        """
        alive = self._reference()
        model = self._described if alive is None else describe(alive, type(alive).__name__)
        assert model is not None  # It is held until the context closes, and is described at that time.
        return require_content(self.report_as(model, self.run_info(), moments=moments))

    def run_info(self) -> RunInfo:
        """Return the counts of all forwards so far; without tokens, as of images, those of the layers."""
        run = self.tally.run_info()
        if self.tally.slots:
            return run
        return replace(run, **maximum_counts(capture.state for capture in self.captures))

    def report_as(
        self,
        model: ModelInfo,
        run: RunInfo,
        warnings: Sequence[str] = (),
        *,
        moments: bool = False,
        last: bool = False,
    ) -> Report:
        """Return the report with this description of the model and the run.

        With `last` it may carry the moments themselves, not a copy: nothing is added to them afterwards.
        """
        notes = [*self._untried, *self._functional.notes(), *self._outer.notes()]
        carried = RunMoments({}, self.tally.slots) if moments else None
        return assemble(
            self.layers, self.tables, model, run, [*warnings, *self.scope_notes, *notes], carried, last=last
        )

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_uncounted():
            return
        # Held until the forward ends: scopes and call counts are of one forward at a time.
        self._turn.take()
        if self._scopes.depth == 0:
            for layer, skipped in zip(self.layers, self._skip or [0] * len(self.layers), strict=True):
                layer.skipped = skipped
                layer.start()
        try:
            self._scopes.open(module, args, kwargs, UserMasks(self.mask, self.decoder_mask))
        except Exception as error:
            if not self.guest or isinstance(error, NormscopeError):
                raise
            note = f"a forward's tokens could not be read, so padding counts: {reason(error)}"
            self.scope_notes[note] = None
            # Without arguments and masks: a user's forward must not fail because of the watcher.
            self._scopes.open(module, (), {}, UserMasks(None, None))
        # Functional norms are looked for until one forward is complete.
        if self._scopes.depth == 1 and not self._searched:
            self._searching.enter_context(self._functional)

    def _done(self, *_: Any) -> None:
        if self._is_uncounted():
            return
        scope = self._scopes.current
        # This hook does not run after an exception, so a failed forward is not counted as one.
        self._searched |= self._scopes.depth == 1
        if self._scopes.depth == 1 and scope is not None and not self._probing:
            if not scope.is_empty:
                self.tally.add(scope.mask)
            self._has_run = True
            self._scopes.finish(self.model)

    def _after(self, *_: Any) -> None:
        # This also runs after `_before` has refused a second thread, which holds no turn.
        if self._is_uncounted() or not self._turn.is_ours():
            return
        self._scopes.close()
        if not self._scopes.depth:
            self._searching.close()
        self._turn.give_back()

    def _guarded(self, call: Callable[..., None]) -> Hook:
        """Return a hook that runs `call`; a failure in a user's forward becomes a note."""

        def run(*arguments: Any) -> None:
            if self._is_uncounted():
                return
            try:
                call(*arguments)
            except Exception as error:
                if not self.guest:
                    raise
                self.scope_notes[f"a module could not be followed: {reason(error)}"] = None

        return Hook(run)

    def _is_uncounted(self) -> bool:
        """Whether this call must not be counted; a note says so, except in a backward pass."""
        why = uncounted()
        if why is not None and why != BACKWARD:
            self.scope_notes[f"what ran inside {why} has no numbers of its own and was not counted"] = None
        return why is not None

    def _reader(self, layer: LayerCalls, original: InputCopy) -> Hook:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # After a failure the layer's sums may hold a part of a call: no more are added to them.
            if layer.failure is not None or self._is_uncounted():
                return
            turn = self._turn
            turn.take()
            try:
                self._read(layer, original, (*args, *kwargs.values()), output)
            except Exception as error:
                if not self.guest:
                    raise
                layer.failure = reason(error)
            finally:
                turn.give_back()

        return Hook(read)

    def _read(self, layer: LayerCalls, original: InputCopy, values: tuple[Any, ...], output: Any) -> None:
        scope = self._scopes.current
        if scope is None and self._has_run:
            return  # A call outside of any forward, after one has run, is a repeat: it is not counted.
        if scope is None:
            layer.start()  # A layer that is called on its own.
        # Tensors created in inference mode could not be updated by a later forward outside of it.
        with torch.inference_mode(False), torch.no_grad(), self._functional.paused():
            layer.add(values, output, original, (scope or Scope(None)).parts, probe=self._probing)
