"""The state of a watcher as plain values and tensors, for checkpoints and for undoing a batch."""

import dataclasses
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from normscope.capture.layer_calls import LayerCalls
from normscope.capture.layer_capture import LayerCapture
from normscope.capture.watcher import Watcher
from normscope.errors import ReportError
from normscope.escaping import quoted
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import GATES, Formula, Gate
from normscope.norms.registry import KINDS, registered
from normscope.results.json_codec import APART, from_plain
from normscope.statistics.layer_state import Seen, seen_of, tensors_of
from normscope.statistics.moments_file import check_facts

COUNTS = ("batches", "samples", "tokens", "real", "slots", "positions", "unknown")


@dataclass(frozen=True)
class NormState:
    """What the first calls of a layer have settled: its formula and its feature axis.

    The own formula of a registered class (`is_own`) is a function: it is looked up again by the class.
    """

    kind: str
    features: int
    settled: bool
    feature_axis: int
    per_head: bool
    gate: Gate | None
    formula: Formula | None
    is_own: bool

    @classmethod
    def of(cls, norm: NormLayer) -> "NormState":
        """Read the state of a layer."""
        formula = norm.formula and replace(norm.formula, own=None)
        is_own = norm.formula is not None and norm.formula.own is not None
        names = ("kind", "features", "settled", "feature_axis", "per_head", "gate")
        return cls(**{name: getattr(norm, name) for name in names}, formula=formula, is_own=is_own)

    def give(self, norm: NormLayer) -> None:
        """Settle a layer of the same model in the same way; ReportError for values that no layer can have."""
        known_kinds = {self.kind, self.kind if self.formula is None else self.formula.kind} <= set(KINDS)
        known_gate = self.gate is None or self.gate in GATES
        if not (known_kinds and known_gate and self.feature_axis in (-1, 1) and self.features >= 0):
            raise ReportError(f"no layer is what it says of {quoted(norm.name)}")
        for name in ("kind", "features", "settled", "feature_axis", "per_head", "gate", "formula"):
            setattr(norm, name, getattr(self, name))
        known = registered(norm.module)
        if self.is_own and self.formula is not None and known is not None:
            norm.formula = replace(self.formula, own=known.normalise)


@dataclass(frozen=True)
class _CallState:
    """One capture: its settled norm, and its measurements."""

    norm: NormState
    seen: Seen


@dataclass(frozen=True)
class _LayerState:
    """One layer: its name, its maximum number of calls in one forward, and its captures."""

    name: str
    per_forward: int
    captures: tuple[_CallState, ...]


@dataclass(frozen=True)
class WatcherState:
    """A watcher between two forwards; `tensors` of capture i, counted over all layers, are named "i/..."."""

    counts: Mapping[str, int]
    notes: tuple[str, ...]
    layers: tuple[_LayerState, ...]
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict, metadata=APART)

    @classmethod
    def of(cls, watcher: Watcher) -> "WatcherState":
        """Read the state of a watcher; the tensors may share its memory."""
        layers = tuple(
            _LayerState(
                layer.norm.name,
                layer.per_forward,
                tuple(_CallState(NormState.of(capture.norm), capture.seen) for capture in layer.captures),
            )
            for layer in watcher.layers
        )
        seen = (call.seen for layer in layers for call in layer.captures)
        tensors = {f"{i}/{name}": t for i, one in enumerate(seen) for name, t in tensors_of(one).items()}
        counts = {name: getattr(watcher.tally, name) for name in COUNTS}
        return cls(counts, tuple(watcher.scope_notes), layers, tensors)

    def give(self, watcher: Watcher) -> None:
        """Let a new watcher on the same model continue from here; ReportError if the state does not fit."""
        ours = [layer.norm.name for layer in watcher.layers]
        if [state.name for state in self.layers] != ours:
            raise ReportError("the layers in it are not those that are measured now")
        for name in COUNTS:
            count = from_plain(int, self.counts.get(name), f"counts.{name}")
            if count < 0:
                raise ReportError(f"counts.{name} is {count}; expected 0 or more")
            setattr(watcher.tally, name, count)
        watcher.scope_notes.update(dict.fromkeys(self.notes))
        number = 0
        for layer, state in zip(watcher.layers, self.layers, strict=True):
            if len(state.captures) > (max(1, state.per_forward) if layer.apart else 1):
                raise ReportError(f"{quoted(state.name)} has {len(state.captures)} captures; expected fewer")
            check_facts([call.seen for call in state.captures])
            layer.per_forward = state.per_forward
            for capture, call in zip(_captures(layer, len(state.captures)), state.captures, strict=True):
                own = {name.partition("/")[2]: t for name, t in self._of(number)}
                if own and "table.co" not in own:
                    raise ReportError(f"the tensor '{number}/table.co' is missing")
                call.norm.give(capture.norm)
                capture.take(seen_of(call.seen, own, call.norm.features))
                number += 1

    def _of(self, number: int) -> Iterator[tuple[str, Tensor]]:
        return ((name, t) for name, t in self.tensors.items() if name.startswith(f"{number}/"))


def _captures(layer: LayerCalls, count: int) -> list[LayerCapture]:
    return [layer.capture(number) for number in range(count)]


def read_state(plain: Any, tensors: Mapping[str, Tensor]) -> WatcherState:
    """Return the state from the output of `to_plain` and its tensors; ReportError if it is malformed."""
    return replace(from_plain(WatcherState, plain, "watcher"), tensors=tensors)


class Snapshot:
    """A copy of all that a watcher has measured, in main memory; nothing before the first batch."""

    def __init__(self, watcher: Watcher) -> None:
        self._counts = {name: getattr(watcher.tally, name) for name in COUNTS}
        self._layers = [
            (
                layer.per_forward,
                [(NormState.of(c.norm), c.seen.copy(), deepcopy(c.scales)) for c in layer.captures],
            )
            for layer in watcher.layers
        ]

    def restore(self, watcher: Watcher) -> None:
        """Set the watcher back to this snapshot; this works several times."""
        for name, count in self._counts.items():
            setattr(watcher.tally, name, count)
        for layer, (per_forward, captures) in zip(watcher.layers, self._layers, strict=True):
            layer.per_forward = per_forward
            del layer.captures[len(captures) :]
            for capture, (norm, seen, scales) in zip(layer.captures, captures, strict=True):
                norm.give(capture.norm)
                # Copies, so that later forwards do not change the snapshot.
                capture.take(seen.copy())
                capture.scales = deepcopy(scales)
