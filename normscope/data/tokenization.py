"""Tokenizes texts: truncation, token ids and special-token masks."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from normscope.data.max_length import agreed_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A tokenizer is handed so many texts at once: what it tells beside their ids takes ten times the memory.
_TOKENISED = 256

# Of a long text so many characters a token are read at first: tokens of most languages have fewer.
_CHARACTERS = 32
_SPACE = re.compile(r"\s")


class Row(NamedTuple):
    """One tokenised text; `types` are its token type ids, if the tokenizer gives any.

    `source` is its place in what was read, `cut` whether it was longer, and `again` as in `Text`.
    """

    ids: list[int]
    types: list[int] | None
    source: int
    cut: bool
    again: bool = False


class Text(NamedTuple):
    """One text, its place in what was read, and whether it was read `again`, after an equal one."""

    source: int
    text: str
    again: bool = False


class TextEncoder:
    """Encodes texts as a tokenizer does, cut to `max_length`: what was `asked` for, or the model's `limit`.

    `excluded` are the ids that do not count: those of `special_ids` when `excluding`, else none.
    `unknown` is the id of the unknown token, see `unknown_id`.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, asked: int | None, limit: int | None, excluding: bool
    ) -> None:
        self._tokenizer: Any = tokenizer
        added = _template(tokenizer)
        self.max_length = agreed_length(asked, limit, len(added))
        self.excluded = _special_ids(tokenizer, added) if excluding else set()
        self.unknown = unknown_id(tokenizer)

    @property
    def pad_id(self) -> int:
        """Any id will do where the tokenizer has none for padding: no real token ever attends to it."""
        ids = (getattr(self._tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
        return next((token for token in ids if token is not None), 0)

    @property
    def pad_type(self) -> int:
        """The token type id to pad with."""
        return self._tokenizer.pad_token_type_id or 0

    def counts(self, row: Row) -> bool:
        """Whether any token of a row counts."""
        return not self.excluded.issuperset(row.ids)

    def encode(self, texts: Sequence[Text]) -> list[Row]:
        """Return the row of every text, cut where it is longer than `max_length`."""
        limit = self.max_length
        starts = [read._replace(text=self._beginning(read.text)) for read in texts]
        rows = self._rows(starts, truncation=False)
        for i, (start, read) in enumerate(zip(starts, texts, strict=True)):
            # Few characters a token are many enough: the end of the beginning is far beyond the limit.
            if limit is not None and start.text is not read.text and len(rows[i].ids) <= 2 * limit:
                starts[i], rows[i] = read, self._rows([read], truncation=False)[0]
        long = [] if limit is None else [i for i, row in enumerate(rows) if len(row.ids) > limit]
        if long:
            # Cutting is left to the tokenizer, which knows what its template puts around a text.
            cut = self._rows([starts[i] for i in long], truncation=True, max_length=limit)
            for i, row in zip(long, cut, strict=True):
                rows[i] = row._replace(cut=True)
        return rows

    def _beginning(self, text: str) -> str:
        """Return so much of a long text, whole words if they end, as holds far more tokens than are used.

        To tokenise a whole book for its first 512 tokens would take seconds.
        """
        limit = self.max_length
        if limit is None or len(text) <= limit * _CHARACTERS or self._tokenizer.truncation_side != "right":
            return text
        most = 2 * limit * _CHARACTERS
        end = _SPACE.search(text, limit * _CHARACTERS, most)
        return text[: end.start() if end else most]

    def _rows(self, texts: list[Text], **truncation: Any) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(texts), _TOKENISED):
            part = texts[start : start + _TOKENISED]
            # verbose=False keeps back a warning about the very lengths that are dealt with here.
            encoded = self._tokenizer(
                [read.text for read in part], padding=False, verbose=False, **truncation
            )
            types = encoded.get("token_type_ids") or [None] * len(part)
            found = zip(encoded["input_ids"], types, part, strict=True)
            rows += [Row(ids, kinds, read.source, cut=False, again=read.again) for ids, kinds, read in found]
        return rows


def unknown_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the id of the token that stands for what the tokenizer cannot read.

    None where there is none: GPT-2 and its kin read all, and call the end of a text their unknown token.
    """
    token: int | None = getattr(tokenizer, "unk_token_id", None)
    return None if token in special_ids(tokenizer) else token


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of the tokens that the tokenizer puts around a text, and of those so named."""
    return _special_ids(tokenizer, _template(tokenizer))


def _special_ids(tokenizer: Any, template: list[int]) -> set[int]:
    named = (getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos"))
    return {token for token in (*named, *template) if token is not None}


def _template(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts around every text."""
    bare = tokenizer("a", add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    whole = list(tokenizer("a", truncation=False, padding=False)["input_ids"])
    for token in bare:
        if token in whole:
            whole.remove(token)
    return whole
