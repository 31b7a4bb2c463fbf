"""Routes the calls of a layer: all into one capture, or each call of a forward into its own."""

from copy import copy

from normscope.capture.layer_capture import LayerCapture
from normscope.norms.detection import NormLayer
from normscope.statistics.buffers import Scratch
from normscope.statistics.token_identity import WordRoom


class LayerCalls:
    """The captures of one layer: one for all its calls or, `apart`, one for each call of a forward.

    A module that is used several times in a forward, as ALBERT's are, sees another input each time.
    """

    def __init__(
        self, norm: NormLayer, room: WordRoom | None, scratch: Scratch, *, apart: bool = False
    ) -> None:
        self.norm = norm
        self.captures = [LayerCapture(norm, room, scratch)]
        self.per_forward = 0
        """The most calls in one forward."""
        self.calls = 0
        """The calls of the forward that runs, or of the last one."""
        self.skipped = 0
        """How many calls of each forward to pass over."""
        self.failure: str | None = None
        """Why counting a call failed; later calls are left out."""
        self.lost = 0
        """How many calls wrote over their own input, and were left out."""
        self.apart = apart
        self._room, self._scratch = room, scratch

    def start(self) -> None:
        """Begin a forward: the next call is its first."""
        self.calls = 0

    def next(self) -> LayerCapture | None:
        """Count a call, and return the capture that it goes into, None where it is to be passed over."""
        self.calls += 1
        self.per_forward = max(self.per_forward, self.calls)
        if self.calls <= self.skipped:
            return None
        return self.capture(self.calls - 1 if self.apart else 0)

    def capture(self, number: int) -> LayerCapture:
        """Return one of the captures, from 0, or the one that comes after the last."""
        if len(self.captures) == number:
            self.captures.append(LayerCapture(copy(self.norm), self._room, self._scratch))
        return self.captures[number]

    def notes(self) -> list[str]:
        """Say which calls are not counted."""
        name, notes = self.norm.name, []
        if self.failure is not None:
            notes.append(f"{name}: counting failed, so later calls were left out: {self.failure}")
        if self.lost:
            one = "call that wrote over its own input was"
            several = "calls that wrote over their own input were"
            notes.append(f"{name}: {self.lost} {one if self.lost == 1 else several} left out")
        return notes

    def named(self) -> list[tuple[str, int | None, LayerCapture]]:
        """Name the captures, each with the number of its call from 1; None where all calls are pooled.

        Only where a layer has several do their names end in a number: "layer#1", "layer#2".
        """
        name = self.norm.name
        if not self.apart:
            return [(name, None, self.captures[0])]
        several = len(self.captures) > 1
        return [(f"{name}#{i}" if several else name, i, c) for i, c in enumerate(self.captures, start=1)]
