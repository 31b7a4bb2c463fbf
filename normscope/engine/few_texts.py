"""Keeps the tokens of a run over a few texts, so that its report can show them."""

from typing import Any

from normscope.data.batch import Batch
from normscope.results.common import Pooled

MAX_TEXTS = 5
_MAX_TOKENS = 64  # of each text


class FewTexts:
    """The token ids of the first texts of a run; a token that the statistics do not count is None."""

    def __init__(self) -> None:
        self._ids: dict[int, list[int | None]] = {}

    def add(self, batch: Batch) -> None:
        """Add the texts of a batch, until there are more than MAX_TEXTS."""
        if len(self._ids) > MAX_TEXTS:
            return
        for row, source in enumerate(batch.sources):
            length = min(int(batch.mask[row].sum()), _MAX_TOKENS)
            ids, counted = batch.inputs["input_ids"][row, :length], batch.valid[row, :length]
            pairs = zip(ids.tolist(), counted.tolist(), strict=True)
            self._ids[source] = [token if counts else None for token, counts in pairs]

    def pooled(self, texts: int, tokenizer: Any) -> Pooled | None:
        """Return the texts in words; None unless these are all `texts` of the run, and few.

        None, too, for a tokenizer that only encodes.
        """
        if len(self._ids) != texts or not 0 < texts <= MAX_TEXTS or not hasattr(tokenizer, "decode"):
            return None
        rows = (self._ids[source] for source in sorted(self._ids))
        return Pooled(tuple(tuple(_word(token, tokenizer) for token in row) for row in rows))


def _word(token: int | None, tokenizer: Any) -> str:
    """Return a token as it reads in a text, without the space before it."""
    if token is None:
        return ""
    word: str = tokenizer.decode([token]).strip()
    return word or str(tokenizer.convert_ids_to_tokens(token))
