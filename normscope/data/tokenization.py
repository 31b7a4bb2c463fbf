"""Tokenizes texts: truncation, token ids and special-token masks."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from normscope.data.conversations import ChatTemplate
from normscope.data.max_length import agreed_length
from normscope.data.token_selection import TokenRules, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts per call of the tokenizer: what it returns in addition to the ids takes ten times their memory.
_TEXTS_PER_CALL = 256

# Characters per token to read of a long text at first: tokens of most languages have fewer.
_CHARACTERS = 32
_SPACE = re.compile(r"\s")


class Row(NamedTuple):
    """One tokenised text; `types` are its token type ids, if the tokenizer returns any.

    `cut` says whether the text was longer; `source` and `repeated` are those of `Text`. `spoken` says which
    of its tokens are of the roles that count, None if all are.
    """

    ids: list[int]
    types: list[int] | None
    source: int
    cut: bool
    repeated: bool = False
    spoken: list[bool] | None = None


class Text(NamedTuple):
    """One text, its index in the corpus (`source`), and whether an equal text came before (`repeated`)."""

    source: int
    text: str
    repeated: bool = False


class TextEncoder:
    """Encodes texts with a tokenizer, cut to `max_length`: the one `asked` for, or the model's `limit`.

    `rules` leave tokens out: special ones if `excluding`, those of `exclude`, ids or texts, and those at the
    `first` positions. With `chat` the texts are conversations. `unknown` is the id of the unknown token, see
    `unknown_id`.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        asked: int | None,
        limit: int | None,
        excluding: bool,
        exclude: Sequence[int | str] = (),
        first: int = 0,
        chat: ChatTemplate | None = None,
    ) -> None:
        self._tokenizer: Any = tokenizer
        added = _template(tokenizer)
        self.max_length = agreed_length(asked, limit, len(added))
        special = _special_ids(tokenizer, added) if excluding else set()
        self.rules = TokenRules(frozenset(special), token_ids(tokenizer, exclude), first)
        self.excluding = excluding
        self.unknown = unknown_id(tokenizer)
        self._chat = chat

    @property
    def pad_id(self) -> int:
        """The token id to pad with; any id will do, because no real token attends to padding."""
        ids = (getattr(self._tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
        return next((token for token in ids if token is not None), 0)

    @property
    def pad_type(self) -> int:
        """The token type id to pad with."""
        return self._tokenizer.pad_token_type_id or 0

    def counts(self, row: Row) -> bool:
        """Whether any token of a row counts."""
        first, out = self.rules.first, self.rules.special | self.rules.excluded
        spoken = row.spoken or [True] * len(row.ids)
        return any(said and i not in out for i, said in zip(row.ids[first:], spoken[first:], strict=True))

    def encode(self, texts: Sequence[Text]) -> list[Row]:
        """Return the row of every text, cut where it is longer than `max_length`."""
        if self._chat is not None:
            return [self._conversation(read, self._chat) for read in texts]
        limit = self.max_length
        starts = [read._replace(text=self._beginning(read.text)) for read in texts]
        rows = self._rows(starts, truncation=False)
        for i, (start, read) in enumerate(zip(starts, texts, strict=True)):
            # A beginning of over 2 * limit tokens reaches far beyond the limit; a shorter one may not.
            if limit is not None and start.text is not read.text and len(rows[i].ids) <= 2 * limit:
                starts[i], rows[i] = read, self._rows([read], truncation=False)[0]
        long = [] if limit is None else [i for i, row in enumerate(rows) if len(row.ids) > limit]
        if long:
            # The tokenizer itself cuts, because its template puts special tokens around a text.
            cut = self._rows([starts[i] for i in long], truncation=True, max_length=limit)
            for i, row in zip(long, cut, strict=True):
                rows[i] = row._replace(cut=True)
        return rows

    def _conversation(self, read: Text, chat: ChatTemplate) -> Row:
        """Return the row of a conversation; what its template puts at the end is cut like all else."""
        turns = chat.write(read.text, read.source)
        limit = len(turns.ids) if self.max_length is None else self.max_length
        left = self._tokenizer.truncation_side == "left"
        kept = slice(max(0, len(turns.ids) - limit), None) if left else slice(limit)
        types = None if turns.types is None else turns.types[kept]
        spoken = None if turns.spoken is None else turns.spoken[kept]
        return Row(turns.ids[kept], types, read.source, len(turns.ids) > limit, read.repeated, spoken)

    def _beginning(self, text: str) -> str:
        """Return the beginning of a long text, with far more tokens than the limit, up to the end of a word.

        To tokenise a whole book for its first 512 tokens would take seconds.
        """
        limit = self.max_length
        if limit is None or len(text) <= limit * _CHARACTERS or self._tokenizer.truncation_side != "right":
            return text
        maximum = 2 * limit * _CHARACTERS
        space = _SPACE.search(text, limit * _CHARACTERS, maximum)
        return text[: space.start() if space else maximum]

    def _rows(self, texts: list[Text], **truncation: Any) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            part = texts[start : start + _TEXTS_PER_CALL]
            # Without verbose=False the tokenizer warns about long texts, which are cut later.
            encoded = self._tokenizer(
                [read.text for read in part], padding=False, verbose=False, **truncation
            )
            types = encoded.get("token_type_ids") or [None] * len(part)
            for ids, kinds, read in zip(encoded["input_ids"], types, part, strict=True):
                rows.append(Row(ids, kinds, read.source, cut=False, repeated=read.repeated))
        return rows


def unknown_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the id of the token for all that the tokenizer cannot read.

    None if there is none: tokenizers such as GPT-2's read everything, and name the end-of-text token as
    their unknown token.
    """
    token: int | None = getattr(tokenizer, "unk_token_id", None)
    return None if token in special_ids(tokenizer) else token


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of the tokens that the tokenizer puts around a text, and of cls, sep, bos and eos."""
    return _special_ids(tokenizer, _template(tokenizer))


def _special_ids(tokenizer: Any, template: list[int]) -> set[int]:
    named = (getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos"))
    return {token for token in (*named, *template) if token is not None}


def _template(tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer puts around every text."""
    bare = tokenizer("a", add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    ids = list(tokenizer("a", truncation=False, padding=False)["input_ids"])
    for token in bare:
        if token in ids:
            ids.remove(token)
    return ids
