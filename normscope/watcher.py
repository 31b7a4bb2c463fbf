"""Hooks as a context manager: every normalization layer of a model is measured while it runs.

The hooks read and never write: no output of the model changes, and none is left behind when the
context ends, whatever ended it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from normscope import __version__
from normscope.capture import LayerCapture
from normscope.errors import UsageError
from normscope.layers import find
from normscope.recurring import outlier_features
from normscope.report import ModelInfo, Report, RunInfo
from normscope.summary import layer_report, warnings_of
from normscope.tally import Tally
from normscope.tokens import Chosen, Scope, Scopes
from normscope.words import WordRoom


def watch(
    model: nn.Module, *, layers: Sequence[str] = (), exclude: Sequence[str] = (), words: bool | int = False
) -> "Watcher":
    """Measure the normalization layers of any module, in whatever forward passes you run.

        with normscope.watch(model) as watcher:
            for batch in loader:
                model(**batch)
        report = watcher.report()

    Padding is left out by the forward's own `attention_mask` (B, T); for a model without one, or to
    leave out more, set `watcher.mask`. `layers` and `exclude` are globs on the layers' names. The
    context may be entered again and again, for example every k-th training step; the numbers add
    up. Raises UsageError when a glob matches no layer.

    With `words` it is also measured what the token's identity explains, by the forward's `input_ids`.
    That takes memory for each distinct id: True keeps as many as fit 1 GiB over all layers, a number
    at most so many ids in each; of more, the lowest ids are kept and `coverage` says how many tokens
    they are.
    """
    return Watcher(model, layers, exclude, words)


class Watcher:
    """The open hooks on a model and what they have measured; made by `watch`."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] = (),
        exclude: Sequence[str] = (),
        words: bool | int = False,
    ) -> None:
        if words < 0:
            raise UsageError(f"words is {words}; expected True, or how many token ids to keep: 1 or more")
        self.model = model
        self.mask: Tensor | None = None
        """Which tokens of the forwards to come count, (B, T), true or 1 for those that do."""
        self.decoder_mask: Tensor | None = None
        """The same for the tokens of an encoder-decoder's decoder."""
        self.probing = False
        """Whether the forwards to come are only to tell the layouts of the layers' inputs."""
        norms = find(model, layers, exclude)
        room = WordRoom(len(norms), None if words is True else words) if words else None
        self.captures = [LayerCapture(norm, room) for norm in norms]
        self.tally = Tally()
        self._scopes = Scopes(words=bool(words))
        self._has_run = False
        self._hooks = ExitStack()
        self._open = False

    def __enter__(self) -> "Watcher":
        if any(parameter.is_meta for parameter in self.model.parameters()):
            raise UsageError("the model is on the meta device, without weights; load it onto a real device")
        if self._open:
            raise UsageError("this watcher is already open; leave its context before entering it again")
        self._open = True
        self.tally.start()
        for capture in self.captures:
            self._hook(capture.norm.module.register_forward_hook(self._reader(capture), with_kwargs=True))
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
        self._open = False
        self._scopes.clear()
        self.tally.stop()

    def report(self) -> Report:
        """Return what has been measured so far; the watcher may go on afterwards."""
        run = self.tally.run_info()
        if not self.tally.slots:  # A model without tokens, an image model say: its layers know what they saw.
            seen = [capture.moments for capture in self.captures if capture.moments is not None]
            run = replace(
                run,
                texts=max((m.samples for m in seen), default=0),
                tokens=max((m.count for m in seen), default=0),
                positions=max((m.positions for m in seen), default=0),
            )
        return self.report_as(describe(self.model, type(self.model).__name__), run)

    def report_as(self, model: ModelInfo, run: RunInfo, warnings: Sequence[str] = ()) -> Report:
        """Return the report under this description of the model and the run."""
        layers = {capture.norm.name: layer_report(capture) for capture in self.captures}
        notes = (
            *warnings,
            *self._scopes.notes,
            *(note for capture in self.captures for note in warnings_of(capture)),
        )
        return Report(__version__, model, run, layers, notes, outlier_features(layers.values()))

    def _hook(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._scopes.open(module, args, kwargs, Chosen(self.mask, self.decoder_mask))

    def _done(self, *_: Any) -> None:
        scope = self._scopes.current
        if self._scopes.depth == 1 and scope is not None and not self.probing:
            self.tally.add(scope.mask)
            self._has_run = True

    def _after(self, *_: Any) -> None:
        self._scopes.close()

    def _reader(self, capture: LayerCapture) -> Any:
        def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            scope = self._scopes.current
            if scope is None and self._has_run:
                return  # Gradient checkpointing calls layers once more, outside any forward.
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if tensors and tensors[0].numel():
                given, *others = tensors
                gate = next((other for other in others if other.shape == given.shape), None)
                # Outside inference mode, whose tensors could not be updated in a later forward.
                with torch.inference_mode(False), torch.no_grad():
                    parts = (scope or Scope(None)).parts
                    capture.add(given, output, parts, gate=gate, probe=self.probing)

        return read


def describe(model: nn.Module, name: str) -> ModelInfo:
    """Return what is known of a model from the object alone."""
    parameters = list(model.parameters())
    first = parameters[0] if parameters else torch.zeros(())
    return ModelInfo(
        id=name,
        revision=None,
        commit=None,
        architecture=type(model).__name__,
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
        parameters=sum(p.numel() for p in parameters),
    )
