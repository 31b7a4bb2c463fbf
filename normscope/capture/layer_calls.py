"""Routes the calls of a layer: all into one capture, or each call of a forward into its own."""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from torch import Tensor

from normscope.capture.hooks import InputCopy
from normscope.capture.layer_capture import Aligner, LayerCapture
from normscope.capture.observers import Observer
from normscope.norms.detection import NormLayer
from normscope.statistics.buffers import Scratch


class LayerCalls:
    """The captures of one layer: one for all its calls or, with `per_call`, one for each call of a forward.

    A module that is used several times in a forward, as in ALBERT, gets a different input each time.
    """

    def __init__(
        self, norm: NormLayer, observers: Sequence[Observer], scratch: Scratch, *, per_call: bool = False
    ) -> None:
        self.norm = norm
        self.captures = [LayerCapture(norm, observers, scratch)]
        self.per_forward = 0
        """The maximum number of calls in one forward."""
        self.calls = 0
        """The number of calls in the current forward, or in the last one."""
        self.skipped = 0
        """The number of calls to skip at the start of each forward."""
        self.failure: str | None = None
        """The reason why counting a call failed; later calls are left out."""
        self.lost = 0
        """The number of calls that overwrote their own input, and were left out."""
        self.per_call = per_call
        self._observers, self._scratch = observers, scratch

    def renewed(self) -> "LayerCalls":
        """Return the same layer, settled as it is, with nothing measured yet."""
        new = LayerCalls(self.norm, self._observers, self._scratch, per_call=self.per_call)
        new.captures = [LayerCapture(old.norm, old.observers, self._scratch) for old in self.captures]
        for capture, old in zip(new.captures, self.captures, strict=True):
            capture.state.known_layout = old.state.known_layout
        return new

    def start(self) -> None:
        """Begin a forward: the next call is its first."""
        self.calls = 0

    def add(
        self, arguments: Iterable[Any], output: Any, before: InputCopy, parts_of: Aligner, *, probe: bool
    ) -> None:
        """Add a call with these arguments, unless it is skipped; see `LayerCapture.add`.

        `before` has the input if the call may have written over it.
        """
        capture = self._next()
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if capture is None or not tensors or not tensors[0].numel():
            return
        hidden = before.of(tensors[0], output)
        if hidden is None:
            self.lost += 1
            return
        # A second input of the same shape may be a gate; the capture tests it.
        gate = next((other for other in tensors[1:] if other.shape == hidden.shape), None)
        capture.add(hidden, output, parts_of, gate=gate, probe=probe)

    def _next(self) -> LayerCapture | None:
        """Count a call and return its capture; None for a call to skip."""
        self.calls += 1
        self.per_forward = max(self.per_forward, self.calls)
        if self.calls <= self.skipped:
            return None
        return self.capture(self.calls - 1 if self.per_call else 0)

    def capture(self, number: int) -> LayerCapture:
        """Return capture `number`, from 0; the one after the last is created."""
        if len(self.captures) == number:
            # A copy, because a capture settles the formula and axes in its own `norm`.
            self.captures.append(LayerCapture(copy(self.norm), self._observers, self._scratch))
        return self.captures[number]

    def resize(self, count: int) -> None:
        """Hold `count` captures, 1 or more: the last ones are dropped, missing ones are created."""
        del self.captures[count:]
        for number in range(len(self.captures), count):
            self.capture(number)

    def notes(self) -> list[str]:
        """Return a sentence for each reason why calls were not counted."""
        name, notes = self.norm.name, []
        if self.failure is not None:
            notes.append(f"{name}: counting failed, so later calls were left out: {self.failure}")
        if self.lost:
            one = "call that wrote over its own input was"
            several = "calls that wrote over their own input were"
            notes.append(f"{name}: {self.lost} {one if self.lost == 1 else several} left out")
        return notes

    def named(self) -> list[tuple[str, int | None, LayerCapture]]:
        """Return (name, call number, capture) for each capture.

        Calls are numbered from 1; the number is None if all calls are pooled. If a layer has several
        captures, their names end in the number: "layer#1", "layer#2".
        """
        name = self.norm.name
        if not self.per_call:
            return [(name, None, self.captures[0])]
        several = len(self.captures) > 1
        return [(f"{name}#{i}" if several else name, i, c) for i, c in enumerate(self.captures, start=1)]
