"""The state of a recorder as plain values and tensors, for checkpoints and for undoing a batch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from normscope.capture.recorder import Recorder
from normscope.errors import ReportError
from normscope.escaping import quoted
from normscope.norms.detection import NormLayer
from normscope.norms.formulas import GATES, Formula, Gate
from normscope.norms.registry import KINDS, registered
from normscope.results.json_codec import NOT_IN_JSON, from_plain
from normscope.statistics.layer_state import LayerState, load_state_dicts, state_dicts

COUNTS = ("batches", "samples", "tokens", "real", "slots", "positions", "unknown")
_LEFT_OUT = "left_out."


@dataclass(frozen=True)
class NormState:
    """The results of a layer's first calls: its formula and its feature axis.

    The formula of a registered class (`is_own`) is a function, so it is looked up again by the class.
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
        registration = registered(norm.module)
        if self.is_own and self.formula is not None and registration is not None:
            norm.formula = replace(self.formula, own=registration.normalise)


@dataclass(frozen=True)
class _CaptureState:
    """One capture: its settled norm, and the facts about its calls."""

    norm: NormState
    seen: LayerState


@dataclass(frozen=True)
class _CallsState:
    """One layer: its name, its maximum number of calls in one forward, and its captures."""

    name: str
    per_forward: int
    captures: tuple[_CaptureState, ...]


@dataclass(frozen=True)
class RecorderState:
    """A recorder between two forwards; `tensors` of capture i, counted over all layers, are named "i/..."."""

    counts: Mapping[str, int]
    notes: tuple[str, ...]
    layers: tuple[_CallsState, ...]
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict, metadata=NOT_IN_JSON)

    @classmethod
    def of(cls, recorder: Recorder, *, copy: bool = False) -> "RecorderState":
        """Read the state of a recorder; the tensors may share its memory, unless a `copy` is requested."""
        layers = tuple(
            _CallsState(
                layer.norm.name,
                layer.per_forward,
                tuple(_CaptureState(NormState.of(c.norm), c.state.facts()) for c in layer.captures),
            )
            for layer in recorder.layers
        )
        tensors = state_dicts((capture.state for capture in recorder.captures), copy=copy)
        counts = {name: getattr(recorder.tally, name) for name in COUNTS}
        counts |= {f"{_LEFT_OUT}{rule}": count for rule, count in recorder.tally.left_out.items()}
        return cls(counts, tuple(recorder.scope_notes), layers, tensors)

    def give(self, recorder: Recorder, *, copy: bool = False) -> None:
        """Let a recorder on the same model continue from here; ReportError if the state does not fit.

        With `copy`, later forwards do not change this state, so it can be used again.
        """
        ours = [layer.norm.name for layer in recorder.layers]
        if [state.name for state in self.layers] != ours:
            raise ReportError("the layers in it are not those that are measured now")
        for name in COUNTS:
            setattr(recorder.tally, name, self._count(name))
        for rule in recorder.tally.left_out:
            recorder.tally.left_out[rule] = self._count(f"{_LEFT_OUT}{rule}")
        recorder.scope_notes.update(dict.fromkeys(self.notes))
        for layer, state in zip(recorder.layers, self.layers, strict=True):
            if len(state.captures) > (max(1, state.per_forward) if layer.per_call else 1):
                raise ReportError(f"{quoted(state.name)} has {len(state.captures)} captures; expected fewer")
            layer.per_forward = state.per_forward
            layer.resize(len(state.captures))
        saved = [capture for layer in self.layers for capture in layer.captures]
        states = [capture.seen.facts() for capture in saved]
        tensors = {name: values.clone() if copy else values for name, values in self.tensors.items()}
        load_state_dicts(states, tensors, [capture.norm.features for capture in saved])
        for capture, own, measured in zip(recorder.captures, saved, states, strict=True):
            own.norm.give(capture.norm)
            capture.state = measured

    def _count(self, name: str) -> int:
        count = from_plain(int, self.counts.get(name), f"counts.{name}")
        if count < 0:
            raise ReportError(f"counts.{name} is {count}; expected 0 or more")
        return count
