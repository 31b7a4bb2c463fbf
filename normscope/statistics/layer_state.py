"""The state of one layer, and of all layers of a run: moments and facts, mergeable in any order."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from normscope.errors import ReportError
from normscope.results.json_codec import NOT_IN_JSON
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.batch_summary import BatchSummary
from normscope.statistics.buffers import Backlog
from normscope.statistics.moments import Moments
from normscope.statistics.pending_sums import PendingSums
from normscope.statistics.state_dict import load_state_dict, move, state_dict

_PRIVATE: Any = {"init": False, "repr": False, "compare": False, "metadata": NOT_IN_JSON}
_STORED = ("stored.mean", "stored.variance")


@dataclass
class LayerState:
    """The moments of one layer so far and the facts about its calls; `moments` is None before the first.

    What `add` brings waits in sums; only after `flush` are moments and errors complete. Methods that read
    the state flush it first.

    `nonfinite` is the number of rows that were left out. `misfits` (another number of features) and
    `unreadable` (nested, sparse, quantized or complex input) are the numbers of calls that were left out.
    `layouts` are the axes of the inputs in order, None where they could not be identified; `guesses` are
    those chosen where sizes coincide. `padded` means that the layer normalises by statistics of several
    rows, and some of these rows were left out. `unfitted` means that no formula gives its output.
    Otherwise `worst_error` is the largest gap between formula and output, over `output_size` elements
    with sum of squares `output_square` and a dtype of this `precision`. `exact` is the number of
    positions without a bin if later ones share bins, None if there are no bins. `stored` holds the
    running mean and variance of a BatchNorm. `scales` holds the moments of the factor by which the layer
    multiplies each row, at position 0 and after it, if they are requested.
    """

    calls: int = 0
    nonfinite: int = 0
    misfits: int = 0
    unreadable: int = 0
    layouts: tuple[str | None, ...] = ()
    known_layout: str | None = None
    guesses: tuple[str | None, ...] = ()
    positioned: bool = True
    unfitted: bool = False
    padded: bool = False
    precision: float = 0.0
    worst_error: float = 0.0
    output_square: float = 0.0
    output_size: int = 0
    exact: int | None = None
    moments: Accumulator | None = field(default=None, metadata=NOT_IN_JSON)
    stored: tuple[Tensor, Tensor] | None = field(default=None, metadata=NOT_IN_JSON)
    scales: Moments | None = field(default=None, metadata=NOT_IN_JSON)
    _pending: PendingSums | None = field(
        default=None, init=False, repr=False, compare=False, metadata=NOT_IN_JSON
    )
    # On a GPU, reading an error makes the host wait, so that several are read at once.
    _errors: Backlog = field(
        default_factory=Backlog, init=False, repr=False, compare=False, metadata=NOT_IN_JSON
    )

    @property
    def layout(self) -> str | None:
        """The axes of the layer's input in order; None if they are unknown or the layer was not called."""
        return None if None in self.layouts or not self.layouts else " or ".join(map(str, self.layouts))

    def add(self, batch: BatchSummary) -> None:
        """Add what a batch left behind."""
        self.nonfinite += batch.nonfinite
        if batch.sums is None:
            return
        pending = self._open(batch.sums.output.pivot, batch.sums.eps)
        pending.add(batch.sums)
        if self.moments is not None and batch.outliers is not None:
            self.moments.outliers.add(batch.outliers)
        if self.moments is not None and batch.inputs is not None:
            self.moments.extremes.add(batch.inputs, batch.outputs)
        if batch.errors is not None:
            self.precision = batch.errors.precision
            self._errors.add(batch.errors.gap, batch.errors.norm, torch.tensor(batch.errors.elements))
            if self._errors.is_full:
                self._flush_errors()

    def _open(self, like: Tensor, eps: float) -> PendingSums:
        """Return the sums that wait; they begin with empty moments, or with those of a checkpoint."""
        if self._pending is None:
            self.moments = self.moments or Accumulator(like.shape[1], eps, like.device)
            # Restored moments may be on another device.
            move(self.moments, like.device)
            self._pending = PendingSums(self.moments)
        return self._pending

    def tokens(self) -> int:
        """Return the number of tokens so far, those that wait included."""
        if self._pending is not None:
            return self._pending.tokens
        return 0 if self.moments is None else self.moments.count

    def flush(self) -> None:
        """Fold what waits into the moments and the errors."""
        if self._pending is not None:
            self._pending.flush()
        self._flush_errors()

    def _flush_errors(self) -> None:
        if self._errors:
            gaps, norms, elements = self._errors.take()
            counts = torch.cat([n.expand(len(gap)) for n, gap in zip(elements, gaps, strict=True)])
            gap, norm = torch.cat(gaps).double().cpu(), torch.cat(norms).double().cpu()
            finite = norm.isfinite()
            self.worst_error = max(self.worst_error, float(gap.where(finite, 0.0).max()))
            self.output_square += float(norm.square().where(finite, 0.0).sum())
            self.output_size += int(counts[finite].sum())

    def own_error(self) -> float:
        """Return max |affine(y) - output| over the output's rms; NaN when no formula fits."""
        if not self.output_square:
            return math.nan
        return self.worst_error / math.sqrt(self.output_square / self.output_size)

    def add_layout(self, layout: str | None, *, sure: bool) -> None:
        """Record the layout of an input; it is a guess unless it is `sure` or another call settled it."""
        self.layouts = _union(self.layouts, (layout,))
        if not sure and self.known_layout is None:
            self.guesses = _union(self.guesses, (layout,))

    def facts(self) -> "LayerState":
        """Return a copy without tensors."""
        self.flush()
        return replace(self, moments=None, stored=None, scales=None)

    def state_dict(self, *, copy: bool = False) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU; they may share memory with these, unless `copy`."""
        self.flush()
        tensors = {} if self.moments is None else self.moments.state_dict(copy=copy)
        for name, values in zip(_STORED, self.stored or (), strict=False):
            tensors[name] = values.to("cpu", copy=copy).contiguous()
        scales = {} if self.scales is None else state_dict(self.scales, copy=copy)
        return {**tensors, **{f"scales.{name}": values for name, values in scales.items()}}

    def load_state_dict(self, tensors: Mapping[str, Tensor], features: int) -> None:
        """Take the tensors of `state_dict` as its own; ReportError if they are not of `features` features."""
        parts: dict[str, dict[str, Tensor]] = {"stored": {}, "scales": {}, "": {}}
        for name, values in tensors.items():
            part = name.partition(".")[0]
            parts[part if part in parts else ""][name] = values
        stored, scales, moments = parts.values()
        self.moments, self._pending = Accumulator.of_state_dict(moments, features) if moments else None, None
        self.stored = (stored[_STORED[0]], stored[_STORED[1]]) if stored else None
        self.scales = Moments.empty(2, 1) if scales else None
        if self.scales is not None:
            load_state_dict(self.scales, {name.partition(".")[2]: values for name, values in scales.items()})

    def copy(self, *, share: bool = False) -> "LayerState":
        """Return a copy on the CPU; it is independent, unless it may `share` memory with this one."""
        copied = self.facts()
        copied.load_state_dict(self.state_dict(copy=not share), self.moments.features if self.moments else 0)
        return copied

    def merge(self, new: "LayerState") -> None:
        """Add the state `new` of the same layer; nothing in `new` changes but that it is flushed."""
        self.flush()
        new.flush()
        for name in ("calls", "nonfinite", "misfits", "unreadable", "output_square", "output_size"):
            setattr(self, name, getattr(self, name) + getattr(new, name))
        self.layouts = _union(self.layouts, new.layouts)
        self.guesses = _union(self.guesses, new.guesses)
        self.known_layout = self.known_layout or new.known_layout
        self.positioned &= new.positioned
        self.exact = self.exact or new.exact
        self.unfitted |= new.unfitted
        self.padded |= new.padded
        self.precision = max(self.precision, new.precision)
        self.worst_error = max(self.worst_error, new.worst_error)
        self.stored = self.stored or new.stored
        if new.moments is not None:
            # Start from empty moments, so that the two states never share a table.
            self.moments = self.moments or new.moments.empty()
            self.moments.merge(new.moments)


def _union(old: tuple[str | None, ...], new: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def maximum_counts(states: Iterable[LayerState]) -> dict[str, Any]:
    """Return the maximum number of texts, tokens and positions of any layer, for runs without token ids."""
    measured = []
    for state in states:
        state.flush()
        measured += [] if state.moments is None else [state.moments]
    return {
        "texts": max((moments.samples for moments in measured), default=0),
        "tokens": max((moments.count for moments in measured), default=0),
        "positions": max((moments.positions for moments in measured), default=0),
    }


@dataclass
class RunMoments:
    """The part of a report that can be merged: the state of each layer, and the number of token `slots`.

    `shards` names the parts of a divided corpus that are included, for example "1/4". `digest` identifies
    the contents of the file that the moments were read from; it is empty if there was no file.
    """

    layers: dict[str, LayerState]
    slots: int
    shards: tuple[str, ...] = ()
    digest: str = ""

    def merge(self, new: "RunMoments") -> None:
        """Add the moments of another run; `new` is not changed."""
        for name, state in new.layers.items():
            self.layers.setdefault(name, LayerState()).merge(state)
        self.slots += new.slots
        self.shards = tuple(dict.fromkeys((*self.shards, *new.shards)))


def state_dicts(states: Iterable[LayerState], *, copy: bool = False) -> dict[str, Tensor]:
    """Return the tensors of several states, those of state i, from 0, with names "i/..."."""
    return {
        f"{i}/{name}": values
        for i, state in enumerate(states)
        for name, values in state.state_dict(copy=copy).items()
    }


def load_state_dicts(
    states: Sequence[LayerState], tensors: Mapping[str, Tensor], features: Iterable[int]
) -> None:
    """Load each of `states`, which has this number of `features`, from the tensors of `state_dicts`.

    Raises ReportError for tensors or facts that cannot be those of a layer.
    """
    for i, (state, width) in enumerate(zip(states, features, strict=True)):
        _check_facts(state, f"facts.layers[{i}]")
        own = {name.partition("/")[2]: v for name, v in tensors.items() if name.startswith(f"{i}/")}
        state.load_state_dict(own, width)


def _check_facts(state: LayerState, where: str) -> None:
    """Raise ReportError for impossible numbers: a negative count, or a sum of squares over no elements."""
    numbers = {name: value for name, value in vars(state).items() if isinstance(value, int | float)}
    below = next((name for name, value in numbers.items() if value < 0), None)
    if below or (state.output_square and not state.output_size):
        raise ReportError(f"{where}.{below or 'output_size'} is too small; expected what was measured")
