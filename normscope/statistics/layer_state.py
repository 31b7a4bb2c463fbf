"""The state of one layer, and of all layers of a run: moments and facts, mergeable in any order."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from normscope.results.json_codec import APART
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.accumulator_tensors import copied, pack, unpack


@dataclass
class Seen:
    """The moments of one layer so far and the facts about its calls; `moments` is None before the first.

    `nonfinite` is the number of rows that were left out. `misfits` (another number of features) and
    `unreadable` (nested, sparse, quantized or complex input) are the numbers of calls that were left out.
    `layouts` are the axes of the inputs in order, None where they could not be identified; `guesses` are
    those chosen where sizes coincide. `padded` means that the layer normalises by statistics of several
    rows, and some of these rows were left out. `unfitted` means that no formula gives its output.
    Otherwise `worst_error` is the largest gap between formula and output, over `output_size` elements
    with sum of squares `output_square` and a dtype of this `precision`. `exact` is the number of
    positions without a bin if later ones share bins, None if there are no bins. `stored` holds the
    running mean and variance of a BatchNorm.
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
    moments: Accumulator | None = field(default=None, metadata=APART)
    stored: tuple[Tensor, Tensor] | None = field(default=None, metadata=APART)

    @property
    def layout(self) -> str | None:
        """The axes of the layer's input in order; None if they are unknown or the layer was not called."""
        return None if None in self.layouts or not self.layouts else " or ".join(map(str, self.layouts))

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

    def copy(self, *, share: bool = False) -> "Seen":
        """Return a copy on the CPU; it is independent, unless it may `share` memory with this one."""
        stored = self.stored and (self.stored[0].cpu(), self.stored[1].cpu())
        return replace(self, moments=self.moments and copied(self.moments, share=share), stored=stored)

    def merge(self, new: "Seen") -> None:
        """Add the state `new` of the same layer; `new` is not changed."""
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


def most_seen(layers: Iterable[Seen]) -> dict[str, Any]:
    """Return the maximum number of texts, tokens and positions of any layer, for runs without token ids."""
    known = [seen.moments for seen in layers if seen.moments is not None]
    return {
        "texts": max((moments.samples for moments in known), default=0),
        "tokens": max((moments.count for moments in known), default=0),
        "positions": max((moments.positions for moments in known), default=0),
    }


@dataclass
class RunMoments:
    """The part of a report that can be merged: the state of each layer, and the number of token `slots`.

    `shards` names the parts of a divided corpus that are included, for example "1/4". `digest` identifies
    the contents of the file that the moments were read from; it is empty if there was no file.
    """

    layers: dict[str, Seen]
    slots: int
    shards: tuple[str, ...] = ()
    digest: str = ""

    def merge(self, new: "RunMoments") -> None:
        """Add the moments of another run; `new` is not changed."""
        for name, seen in new.layers.items():
            self.layers.setdefault(name, Seen()).merge(seen)
        self.slots += new.slots
        self.shards = tuple(dict.fromkeys((*self.shards, *new.shards)))


_STORED = ("stored.mean", "stored.variance")


def tensors_of(seen: Seen) -> dict[str, Tensor]:
    """Return the tensors of a layer's state, on the CPU: its moments and its stored BatchNorm statistics."""
    stored = dict(zip(_STORED, seen.stored, strict=True)) if seen.stored else {}
    tensors = {} if seen.moments is None else pack(seen.moments)
    return {**tensors, **{name: values.cpu().contiguous() for name, values in stored.items()}}


def seen_of(plain: Seen, tensors: Mapping[str, Tensor], features: int) -> Seen:
    """Rebuild a layer's state from its plain values and the tensors of `tensors_of`."""
    moments = unpack(tensors, features) if "table.co" in tensors else None
    stored = (tensors[_STORED[0]], tensors[_STORED[1]]) if _STORED[0] in tensors else None
    return replace(plain, moments=moments, stored=stored)
