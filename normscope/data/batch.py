"""A batch: padded texts, and which of their tokens count."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from normscope.data.token_selection import without
from normscope.data.tokenization import Row, TextEncoder

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B texts of up to T tokens, padded on the right.

    `inputs` are the arguments of the model: `input_ids`, `attention_mask` and, if the tokenizer returns
    them, `token_type_ids`, each (B, T) int64. `mask` (B, T) is true at tokens that are not padding,
    `valid` (B, T) at those of them that the statistics count. `sources` are the indices of the B texts in
    the corpus, blank ones included, from 0. `decoder_valid` (B, T) marks the tokens that count of the text
    that a decoder reads, shifted right by its start token. `left_out` has the number of real tokens that
    each rule left out.
    """

    inputs: "dict[str, Tensor]"
    mask: "Tensor"
    valid: "Tensor"
    sources: tuple[int, ...]
    decoder_valid: "Tensor"
    left_out: Mapping[str, int] = field(default_factory=dict)

    def part(self, rows: slice) -> "Batch":
        """Return the batch of some of these texts, padded to the longest of them; `left_out` stays empty."""
        return self._of(rows, self.sources[rows])

    def take(self, rows: "Tensor") -> "Batch":
        """Return the batch of the texts that are chosen, (B,) bool, one or more; see `part`."""
        return self._of(rows, tuple(compress(self.sources, rows.tolist())))

    def _of(self, rows: "slice | Tensor", sources: tuple[int, ...]) -> "Batch":
        longest = int(self.mask[rows].sum(1).max())
        inputs = {name: values[rows, :longest] for name, values in self.inputs.items()}
        masks = (values[rows, :longest] for values in (self.mask, self.valid, self.decoder_valid))
        mask, valid, decoder_valid = masks
        return Batch(inputs, mask, valid, sources, decoder_valid)


def padded(rows: list[Row], encoder: TextEncoder, start: int | None) -> Batch:
    """Pad on the right, even if the tokenizer pads on the left for generation.

    Then token t is at position t without position_ids, as models with learned positions such as GPT-2
    need it. Causal attention never sees the padding, and other attention is masked. `start` is the id that a
    decoder begins with, None without a decoder.
    """
    import torch

    lengths = torch.tensor([len(row.ids) for row in rows])  # (B,)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
    ids = torch.full(mask.shape, encoder.pad_id, dtype=torch.int64)
    ids[mask] = torch.tensor([i for row in rows for i in row.ids])
    inputs = {"input_ids": ids, "attention_mask": mask.to(torch.int64)}
    if rows[0].types is not None:
        kinds = torch.full(mask.shape, encoder.pad_type, dtype=torch.int64)
        kinds[mask] = torch.tensor([kind for row in rows for kind in row.types or ()])
        inputs["token_type_ids"] = kinds
    spoken = None
    if rows[0].spoken is not None:
        spoken = torch.zeros_like(mask)
        spoken[mask] = torch.tensor([said for row in rows for said in row.spoken or ()])
    left_out = encoder.rules.left_out(mask, _positions(mask), ids, spoken)
    counts = {name: int(tokens.sum()) for name, tokens in left_out.items()}
    sources = tuple(row.source for row in rows)
    decoder_valid = _decoder_valid(mask, ids, spoken, encoder, start)
    return Batch(inputs, mask, without(mask, left_out), sources, decoder_valid, counts)


def _decoder_valid(
    mask: "Tensor", ids: "Tensor", spoken: "Tensor | None", encoder: TextEncoder, start: int | None
) -> "Tensor":
    """Return which tokens (B, T) of the shifted text count; its start token is special, and of no role."""
    ids = shifted(ids, -1 if start is None else start)
    spoken = None if spoken is None else shifted(spoken, first=False)
    valid = without(mask, encoder.rules.left_out(mask, _positions(mask), ids, spoken))
    if encoder.excluding:
        valid[:, 0] = False
    return valid


def _positions(mask: "Tensor") -> "Tensor":
    """Return the position of each token, (B, T): all padding is on the right."""
    import torch

    return torch.arange(mask.shape[1]).expand_as(mask)


def shifted(values: "Tensor", first: int) -> "Tensor":
    """Move (B, T) one to the right: `first` becomes the first value of each row, and the last one is lost."""
    import torch

    return torch.cat([torch.full_like(values[:, :1], first), values[:, :-1]], dim=1)
