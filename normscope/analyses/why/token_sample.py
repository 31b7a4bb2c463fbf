"""A bounded random sample of texts whose tokens are kept at every layer."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.analyses.why.evidence import LayerRows
from normscope.capture.observers import BatchRows
from normscope.capture.text_sample import LayerTexts, TextSample
from normscope.data.batch import Batch
from normscope.errors import UsageError
from normscope.statistics.alignment import Alignment
from normscope.statistics.layer_state import LayerState

# Bytes of a float32, and of what labels one token at one layer.
NUMBER, LABELS = 4, 17
_LEAST_TEXTS = 2


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


class _Piece(NamedTuple):
    """The tokens of one text in one call: x (T, D), positions and flags (T,), and the sum of y (D,)."""

    x: Tensor
    position: Tensor
    special: Tensor
    output: Tensor


class TokensAtLayer(LayerTexts):
    """The tokens of each kept text at one layer, in the machine's own memory."""

    def __init__(self, kept: KeptTokens) -> None:
        super().__init__(kept)
        self._tokens = kept
        self._pieces: dict[int, list[_Piece]] = {}

    def observe(self, batch: BatchRows, _: LayerState, /) -> None:
        """Add the rows x, y (V, D) of a batch; a text may come again, in another call."""
        where = batch.where
        if not where.by_text or not where.positioned:
            self.lost = True
            return
        slots = self._sample.slots[where.batch_row.cpu()]
        if not bool((slots >= 0).any()):
            return
        ends = where.sample.count[:, 0].cumsum(0).long().tolist()
        x, position, special = batch.rows.x.float().cpu(), where.positions.cpu(), self._special(where)
        words = (~special).to(batch.y.device, torch.float64)
        for slot, start, end in zip(slots.tolist(), [0, *ends], ends, strict=False):
            if slot >= 0:
                part = slice(start, end)
                output = (batch.y[part].double() * words[part, None]).sum(0).cpu()
                piece = _Piece(x[part].clone(), position[part].clone(), special[part].clone(), output)
                self._pieces.setdefault(slot, []).append(piece)

    def _special(self, where: Alignment) -> Tensor:
        """Return which of the rows are special tokens, (V,)."""
        if where.token_ids is None:
            return torch.zeros(len(where.positions), dtype=torch.bool)
        return torch.isin(where.token_ids.cpu(), self._tokens.special)

    def clear(self, slots: Tensor) -> None:
        """Forget what is at `slots`."""
        for slot in slots.tolist():
            self._pieces.pop(slot, None)

    def rows(self, name: str, eps: float) -> LayerRows | None:
        """Return the tokens of the kept texts in the order of the corpus, None where they are unknown."""
        order = self._sample.order().tolist()
        if self.lost or any(slot not in self._pieces for slot in order):
            return None
        texts = [(n, piece) for n, slot in enumerate(order) for piece in self._pieces[slot]]
        output = torch.zeros(len(order), texts[0][1].x.shape[1], dtype=torch.float64)
        counted = torch.zeros(len(order), 1, dtype=torch.float64)
        for n, piece in texts:
            output[n] += piece.output
            counted[n] += int((~piece.special).sum())
        return LayerRows(
            name,
            eps,
            torch.cat([piece.x for _, piece in texts]),
            torch.cat([torch.full((len(piece.x),), n) for n, piece in texts]),
            torch.cat([piece.position for _, piece in texts]),
            torch.cat([piece.special for _, piece in texts]),
            output / counted,
        )
