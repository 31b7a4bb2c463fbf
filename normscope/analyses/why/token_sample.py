"""A bounded random sample of texts whose tokens are kept at every layer."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain, count

import torch
from torch import Tensor

from normscope.analyses.why.evidence import LayerRows
from normscope.capture.observers import BatchRows
from normscope.capture.text_sample import LayerTexts, TextSample
from normscope.data.batch import Batch
from normscope.errors import UsageError
from normscope.statistics.alignment import Alignment
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import grown

# Bytes of a float32, and of what labels one token at one layer.
NUMBER, LABELS = 4, 17
_LEAST_TEXTS = 2
# The C library returns a block of this size to the system when it is released, and only what is written of
# it takes memory. Smaller pieces, between the tensors of a forward, would leave holes that nothing fills.
_BLOCK = 1 << 25
# Deleted rows are kept up to this number, or to as many as the others.
_SPARE = 1 << 12

# Rows (V, D), the position of each, and whether it is special.
_Table = tuple[Tensor, Tensor, Tensor]


class KeptTokens(TextSample):
    """The kept texts with all their tokens at every layer, in float32.

    At most `samples` texts are kept, and fewer when their tokens would take over `memory` bytes: then
    those of the largest priorities go. `special` are the ids of the tokens that a tokenizer adds. `texts`
    are the texts that were read, by their place in the corpus: those that are not kept are deleted.
    """

    def __init__(self, samples: int, memory: int, seed: int, special: Collection[int]) -> None:
        super().__init__(samples, memory, seed)
        self.special = torch.tensor(sorted(special), dtype=torch.int64)
        self.ids: dict[int, list[int]] = {}
        """The token ids of every kept text, by its place in the corpus."""
        self.texts: dict[int, str] = {}
        self._each = 0

    def fit(self, features: Iterable[int]) -> None:
        """Take note of what one token takes, in layers of so many features (0: unknown)."""
        known = list(features)
        self._each = sum((d or max(known)) * NUMBER + LABELS for d in known)

    def layer(self, name: str) -> "TokensAtLayer":
        """Return the place for the tokens at a layer."""
        place = self.layers.get(name)
        if not isinstance(place, TokensAtLayer):
            place = self.layers[name] = TokensAtLayer(self)
        return place

    def begin(self, batch: Batch) -> None:
        """Choose among the texts of a batch that is about to run."""
        earlier = self.sources
        super().begin(batch)
        for source, ids, mask in zip(batch.sources, batch.inputs["input_ids"], batch.mask, strict=True):
            self.ids[source] = ids[mask].tolist()
        before = set(self.choice.slots.values())
        while sum(map(len, self.counted())) * self._each > self.memory:
            self._drop_one()
        gone = torch.tensor(sorted(before - set(self.choice.slots.values())), dtype=torch.int64)
        for layer in self.layers.values():
            layer.clear(gone)
        self.select(batch.sources)
        self.ids = {source: self.ids[source] for source in self.choice.slots}
        for source in {*earlier, *batch.sources} - self.choice.slots.keys():
            self.texts.pop(source, None)

    def _drop_one(self) -> None:
        if len(self.choice.slots) <= _LEAST_TEXTS:
            need = sum(map(len, self.counted())) * self._each
            raise UsageError(
                f"table memory of {self.memory:,} bytes; expected at least {need:,}, for two texts; raise it"
            )
        self.choice.maximum = len(self.choice.slots) - 1
        self.choice.offer([])


class _Rows:
    """Rows of D numbers, float32, each with its position and whether it is special, in large blocks."""

    def __init__(self, features: int) -> None:
        self._size = -(-_BLOCK // (NUMBER * features))
        self._blocks: list[_Table] = []
        self._features, self.used = features, 0

    def put(self, x: Tensor, position: Tensor, special: Tensor) -> int:
        """Store rows, (V, D), (V,) and (V,); return the number of the first: the others follow it."""
        start, self.used = self.used, self.used + len(x)
        while len(self._blocks) * self._size < self.used:
            self._blocks.append(self._empty(self._size))
        for block, here, there in self._places(torch.arange(start, self.used)):
            for table, values in zip(block, (x, position, special), strict=True):
                table[there] = values[here]
        return start

    def take(self, number: Tensor) -> _Table:
        """Return the rows of these numbers (V,): (V, D), (V,) and (V,)."""
        rows = self._empty(len(number))
        for block, here, there in self._places(number):
            for table, values in zip(block, rows, strict=True):
                values[here] = table[there]
        return rows

    def _empty(self, size: int) -> _Table:
        labels = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.bool)
        return torch.empty(size, self._features), *labels

    def _places(self, number: Tensor) -> Iterator[tuple[_Table, Tensor, Tensor]]:
        """Yield each block, which of the numbers are in it, and their places there."""
        for start, block in zip(count(0, self._size), self._blocks, strict=False):
            here = ((number >= start) & (number < start + self._size)).nonzero().flatten()
            if len(here):
                yield block, here, number[here] - start


class TokensAtLayer(LayerTexts):
    """The tokens of each kept text at one layer, in the machine's own memory."""

    def __init__(self, kept: KeptTokens) -> None:
        super().__init__(kept)
        self._tokens = kept
        self._rows = _Rows(1)
        self._runs: dict[int, list[range]] = {}
        """The numbers of the rows of each text, in the order of its calls, by its slot."""
        self._output = torch.empty(0, 0, dtype=torch.float64)
        """The sum of y over the tokens of each text that are not special, (slots, D)."""

    def observe(self, batch: BatchRows, _: LayerState, /) -> None:
        """Add the rows x, y (V, D) of a batch; a text may come again, in another call."""
        where = batch.where
        if not where.by_text or not where.positioned:
            self.lost = True
            return
        slots = self._sample.slots[where.batch_row.cpu()]
        slot = slots[where.sample.group.cpu()]
        chosen = (slot >= 0).nonzero().flatten()
        if not len(chosen):
            return
        x, y = (rows[chosen.to(rows.device)] for rows in (batch.rows.x, batch.y))
        slot, special, features = slot[chosen], self._special(where)[chosen], x.shape[1]
        self._rows = self._rows if self._runs else _Rows(features)
        start = self._rows.put(x.float().cpu(), where.positions.cpu()[chosen], special)
        for own, length in zip(slots.tolist(), where.sample.count[:, 0].long().tolist(), strict=True):
            if own >= 0:
                self._runs.setdefault(own, []).append(range(start, start + length))
                start += length
        self._output = grown(self._output.view(-1, features), int(slots.max()) + 1)
        self._output.index_add_(0, slot, y.double().cpu().where(~special[:, None], 0.0))

    def _special(self, where: Alignment) -> Tensor:
        """Return which of the rows are special tokens, (V,)."""
        if where.token_ids is None:
            return torch.zeros(len(where.positions), dtype=torch.bool)
        return torch.isin(where.token_ids.cpu(), self._tokens.special)

    def clear(self, slots: Tensor) -> None:
        """Delete what is at `slots`."""
        for slot in slots.tolist():
            self._runs.pop(slot, None)
        self._output[slots[slots < len(self._output)]] = 0.0
        if self._rows.used > 2 * sum(map(len, chain.from_iterable(self._runs.values()))) + _SPARE:
            old, self._rows = self._rows, _Rows(self._output.shape[1])
            for runs in self._runs.values():
                starts = [self._rows.put(*old.take(_numbers([run]))) for run in runs]
                runs[:] = [range(s, s + len(run)) for s, run in zip(starts, runs, strict=True)]

    def rows(self, name: str, eps: float) -> LayerRows | None:
        """Return the tokens of the kept texts in the order of the corpus, None where they are unknown."""
        order = self._sample.order()
        if self.lost or not self._runs.keys() >= set(order.tolist()):
            return None
        texts = [self._runs[slot] for slot in order.tolist()]
        x, position, special = self._rows.take(_numbers(chain.from_iterable(texts)))
        text = torch.repeat_interleave(torch.tensor([sum(map(len, runs)) for runs in texts]))
        words = torch.bincount(text[~special], minlength=len(texts))
        return LayerRows(name, eps, x, text, position, special, self._output[order] / words[:, None])


def _numbers(runs: Iterable[range]) -> Tensor:
    return torch.cat([torch.arange(run.start, run.stop) for run in runs])
