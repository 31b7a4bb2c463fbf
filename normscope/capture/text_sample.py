"""A bounded random sample of texts whose moments are kept at every layer.

The priority of a text depends only on the random seed and on its position in the corpus, and the texts
with the smallest priorities stay in the sample. So the choice does not depend on the batches.
"""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

import numpy as np
import torch
from torch import Tensor

from normscope.capture.observers import BatchRows
from normscope.data.batch import Batch
from normscope.data.batch_sampling import random_bits
from normscope.errors import UsageError
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import Moments

_NUMBER = 8  # bytes of a float64
_MIN_SLOTS = 64


class Choice:
    """A random sample of at most `maximum` texts of a stream; each has a slot below `maximum`."""

    def __init__(self, maximum: int, seed: int) -> None:
        self.maximum, self._seed = maximum, seed
        self.slots: dict[int, int] = {}
        """The slot of each text in the sample, by its position in the corpus."""
        self._last: list[tuple[int, int]] = []
        self._free: list[int] = []
        self._used = 0

    def offer(self, sources: Sequence[int]) -> list[int]:
        """Offer new texts, none of them for a second time; return their slots, -1 for texts not chosen.

        A returned slot may be one whose earlier text has left the sample.
        """
        for source in sources:
            heappush(self._last, (-random_bits(self._seed, source), source))
            self.slots[source] = -1
        while len(self._last) > self.maximum:
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


class TextSample:
    """The texts in the sample: their places, which of their tokens count, and their moments by layer.

    The sample size is at most `samples`, and smaller if the moments would take over `memory` bytes. `kind`
    is the word for one of them in messages.
    """

    def __init__(self, samples: int, memory: int, seed: int, kind: str = "text") -> None:
        self.samples, self.memory, self.kind = samples, memory, kind
        self.layers: dict[str, LayerTexts] = {}
        self.slots = torch.empty(0, dtype=torch.int64)
        """The slot of each row of the current batch, (B,), -1 for a text that is not in the sample."""
        self.choice = Choice(samples, seed)
        self._counted: dict[int, np.ndarray] = {}

    @property
    def limited(self) -> bool:
        """Whether the memory limit makes the sample size smaller than `samples`."""
        return self.choice.maximum < self.samples

    def fit(self, features: Iterable[int]) -> None:
        """Limit the sample size to what the memory holds, for layers with these `features` (0: unknown).

        Raises UsageError when fewer than two texts fit, or fewer than `samples` if that is less.
        """
        widths = list(features)
        text_bytes = sum(2 * (d or max(widths)) + 1 for d in widths) * _NUMBER
        self.choice.maximum = min(self.samples, self.memory // max(text_bytes, 1))
        if self.choice.maximum < min(2, self.samples):
            raise UsageError(
                f"table memory of {self.memory:,} bytes; "
                f"expected at least {2 * text_bytes:,}, for two {self.kind}s; raise it"
            )

    def layer(self, name: str) -> "LayerTexts":
        """Return the store for the moments of a layer; it is created at the first request."""
        return self.layers.setdefault(name, LayerTexts(self))

    def choose(self, sources: Sequence[int]) -> list[int]:
        """Choose among the samples that run next, by their places; return their slots, -1 for none."""
        slots = self.choice.offer(sources)
        self.slots = torch.tensor(slots, dtype=torch.int64)
        # A reused slot still holds the moments of an earlier text.
        for layer in self.layers.values():
            layer.clear(self.slots[self.slots >= 0])
        return slots

    def begin(self, batch: Batch) -> None:
        """Choose among the texts of the batch that runs next."""
        slots = self.choose(batch.sources)
        for source, slot, mask, valid in zip(batch.sources, slots, batch.mask, batch.valid, strict=True):
            if slot >= 0:
                self._counted[source] = valid[mask].numpy()
        for source in self._counted.keys() - self.choice.slots.keys():
            del self._counted[source]

    def select(self, sources: Sequence[int]) -> None:
        """Set `slots` for the texts of the current batch that run next, all of them or some."""
        self.slots = torch.tensor([self.choice.slots.get(source, -1) for source in sources])

    def take_back(self, sources: Sequence[int]) -> None:
        """Delete the moments of texts that will run again, at all layers."""
        self.select(sources)
        for layer in self.layers.values():
            layer.clear(self.slots[self.slots >= 0])

    @property
    def sources(self) -> list[int]:
        """The positions in the corpus of the texts in the sample, in increasing order."""
        return sorted(self.choice.slots)

    def counted(self) -> list[np.ndarray]:
        """Return which tokens count in each text of the sample, in corpus order, (tokens,) bool each."""
        return [self._counted[source] for source in self.sources]

    def order(self) -> Tensor:
        """Return the slots of the texts in the sample, in corpus order, (texts,)."""
        return torch.tensor([self.choice.slots[source] for source in self.sources], dtype=torch.int64)


class LayerTexts:
    """The moments at one layer of each text in the sample, (slots, D), on the CPU."""

    def __init__(self, sample: TextSample) -> None:
        self._sample = sample
        self._table: Moments | None = None
        self.lost = False
        """Whether some rows could not be assigned to a text."""

    def observe(self, batch: BatchRows, _: LayerState, /) -> None:
        """Add the moments of the samples of a batch (G, D); another call may add to the same text."""
        where, rows = batch.where, batch.where.batch_row.cpu()
        # More rows than samples: an image that is cut into crops, or rows of all samples in one axis.
        if not where.by_text or int(rows.max()) >= len(self._sample.slots):
            self.lost = True
            return
        slots = self._sample.slots[rows]
        chosen = (slots >= 0).nonzero().flatten()
        if not len(chosen):
            return
        slots, new = slots[chosen], batch.samples.take(chosen.to(batch.samples.mean.device)).to("cpu")
        table = self._grown(int(slots.max()) + 1, new.mean.shape[1])
        old = table.take(slots)
        old.merge(new)
        table.put(slots, old)

    def clear(self, slots: Tensor) -> None:
        """Delete the moments at `slots` (N,)."""
        if self._table is not None:
            slots = slots[slots < len(self._table.mean)]
            self._table.put(slots, Moments.empty(len(slots), self._table.mean.shape[1]))

    def moments(self) -> Moments | None:
        """Return the moments of the sample, (texts, D), in corpus order; None where they are unknown."""
        if self._table is None or self.lost:
            return None
        order = self._sample.order()
        self._grown(int(order.max()) + 1, self._table.mean.shape[1])
        return self._table.take(order)

    def _grown(self, slots: int, features: int) -> Moments:
        if self._table is None:
            self._table = Moments.empty(0, features)
        size = len(self._table.mean)
        if slots > size:
            maximum = self._sample.choice.maximum
            self._table.grow(min(maximum, max(slots, 2 * size, _MIN_SLOTS)))
        return self._table
