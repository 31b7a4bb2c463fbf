"""A bounded random sample of texts whose moments are kept at every layer.

A text's priority follows from the seed and its place in the corpus alone, and the smallest are
kept: so the choice does not depend on how texts are put into batches.
"""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from normscope.data.batch_sampling import chance
from normscope.data.batching import Batch
from normscope.errors import UsageError
from normscope.statistics.alignment import Alignment
from normscope.statistics.moments import Moments

_NUMBER = 8  # bytes of a float64
_LEAST_ROOM = 64


class BatchRows(NamedTuple):
    """What one layer has seen of a batch: rows x and its own y (V, D), and the moments of x by sample."""

    x: Tensor
    y: Tensor
    samples: Moments
    where: Alignment


class Choice:
    """At most `most` of a stream of texts, by chance; each kept one has a slot below `most`."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self._seed = most, seed
        self.slots: dict[int, int] = {}
        """The slot of every kept text, by its place in the corpus."""
        self._last: list[tuple[int, int]] = []
        self._free: list[int] = []
        self._used = 0

    def offer(self, sources: Sequence[int]) -> list[int]:
        """Offer texts that were not offered before; return their slots, -1 for each that is not kept.

        A slot that is given again belongs to a text that is no longer kept.
        """
        for source in sources:
            heappush(self._last, (-chance(self._seed, source), source))
            self.slots[source] = -1
        while len(self._last) > self.most:
            _, source = heappop(self._last)
            slot = self.slots.pop(source)
            self._free += [slot] if slot >= 0 else []
        for source in self.slots.keys() & sources:
            self.slots[source] = self._slot()
        return [self.slots.get(source, -1) for source in sources]

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1


class Kept:
    """The kept texts: which they are, their tokens, and their moments at every layer.

    At most `samples` texts are kept, and fewer when their moments would take over `memory` bytes.
    """

    def __init__(self, samples: int, memory: int, seed: int) -> None:
        self.samples, self.memory = samples, memory
        self.layers: dict[str, KeptLayer] = {}
        self.slots = torch.empty(0, dtype=torch.int64)
        """The slot of each row of the batch that is running, (B,), -1 for a text that is not kept."""
        self.choice = Choice(samples, seed)
        self._counted: dict[int, np.ndarray] = {}

    @property
    def limited(self) -> bool:
        """Whether memory allows fewer than `samples`."""
        return self.choice.most < self.samples

    def fit(self, features: Iterable[int]) -> None:
        """Keep no more texts than memory holds, for layers of so many features (0: unknown)."""
        known = list(features)
        each = sum(2 * (d or max(known)) + 1 for d in known) * _NUMBER
        self.choice.most = min(self.samples, self.memory // max(each, 1))
        if self.choice.most < min(2, self.samples):
            raise UsageError(
                f"table memory of {self.memory:,} bytes; expected at least {2 * each:,}, for two texts; "
                "raise it"
            )

    def layer(self, name: str) -> "KeptLayer":
        """Return the place for the moments of a layer."""
        return self.layers.setdefault(name, KeptLayer(self))

    def begin(self, batch: Batch) -> None:
        """Choose among the texts of a batch that is about to run."""
        slots = self.choice.offer(batch.sources)
        self.slots = torch.tensor(slots, dtype=torch.int64)
        again = self.slots[self.slots >= 0]
        for layer in self.layers.values():
            layer.clear(again)
        for source, slot, mask, valid in zip(batch.sources, slots, batch.mask, batch.valid, strict=True):
            if slot >= 0:
                self._counted[source] = valid[mask].numpy()
        for source in self._counted.keys() - self.choice.slots.keys():
            del self._counted[source]

    def place(self, sources: Sequence[int]) -> None:
        """Take note that texts of the batch that has begun, all or some, are about to run."""
        self.slots = torch.tensor([self.choice.slots.get(source, -1) for source in sources])

    def take_back(self, sources: Sequence[int]) -> None:
        """Forget what the layers have kept of texts that are to run once more."""
        self.place(sources)
        for layer in self.layers.values():
            layer.clear(self.slots[self.slots >= 0])

    @property
    def sources(self) -> list[int]:
        """The places of the kept texts in the corpus, in order."""
        return sorted(self.choice.slots)

    def counted(self) -> list[np.ndarray]:
        """Return for each kept text, in order, which of its tokens count, (tokens,) bool."""
        return [self._counted[source] for source in self.sources]

    def order(self) -> Tensor:
        """Return the slots of the kept texts in the order of the corpus."""
        return torch.tensor([self.choice.slots[source] for source in self.sources], dtype=torch.int64)


class KeptLayer:
    """The moments of each kept text at one layer, (slots, D), in the machine's own memory."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._table: Moments | None = None
        self.lost = False
        """Whether some rows could not be told to be any text's."""

    def add(self, seen: BatchRows) -> None:
        """Add the moments of a batch's samples (G, D); a text may come again, in another call."""
        where = seen.where
        if not where.by_text:
            self.lost = True
            return
        slots = self._kept.slots[where.batch_row.cpu()]
        chosen = (slots >= 0).nonzero().flatten()
        if not len(chosen):
            return
        slots, new = slots[chosen], seen.samples.take(chosen.to(seen.samples.mean.device)).to("cpu")
        table = self._room(int(slots.max()) + 1, new.mean.shape[1])
        old = table.take(slots)
        old.merge(new)
        table.put(slots, old)

    def clear(self, slots: Tensor) -> None:
        """Forget what is at `slots`."""
        if self._table is not None:
            slots = slots[slots < len(self._table.mean)]
            self._table.put(slots, Moments.empty(len(slots), self._table.mean.shape[1]))

    def moments(self) -> Moments | None:
        """Return the moments of the kept texts in the order of the corpus, None where they are unknown."""
        if self._table is None or self.lost:
            return None
        order = self._kept.order()
        self._room(int(order.max()) + 1, self._table.mean.shape[1])
        return self._table.take(order)

    def _room(self, slots: int, features: int) -> Moments:
        if self._table is None:
            self._table = Moments.empty(0, features)
        have = len(self._table.mean)
        if slots > have:
            most = self._kept.choice.most
            self._table.grow(min(most, max(slots, 2 * have, _LEAST_ROOM)))
        return self._table
