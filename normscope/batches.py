"""Texts tokenised, ordered by length and padded into batches that a model can be called with."""

import math
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from normscope.corpus import Corpus, Position
from normscope.errors import TextError, UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ORDERS = ("length", "given")
SPECIAL_TOKENS = ("include", "exclude")

AUTO: Literal["auto"] = "auto"
# What a batch holds at first where tokens decide: enough to keep a processor busy, little enough for any.
AUTO_TOKENS = 4096
_MOST_AUTO_TOKENS = 64 * AUTO_TOKENS

# A window is tokenised and sorted at once: long enough to sort well, short enough to stay in memory.
_WINDOW_BATCHES = 64
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 1 << 21
# A tokenizer is handed so many texts at once: what it tells beside their ids takes ten times the memory.
_TOKENISED = 256

# Of a long text so many characters a token are read at first: tokens of most languages have fewer.
_CHARACTERS = 32
_SPACE = re.compile(r"\s")

# transformers writes 1e30 where a tokenizer knows no limit.
_UNLIMITED = 10**9

_LENGTH_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)

# Their tables of learned positions start at the padding id plus one, so that many rows are never used.
_POSITIONS_AFTER_PADDING = {
    "altclip_text_model",
    "bridgetower_text_model",
    "camembert",
    "clap_text_model",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}


@dataclass(frozen=True)
class Batching:
    """How texts become batches; UsageError for a value out of its range.

    `batch_size` "auto" puts as many texts into a batch as have 4,096 tokens together, padding counted;
    on a GPU more while its memory is far from full. `max_length` None means the model's own limit.
    `order` "length" puts texts of like length into one batch, longest first, so that little is padding
    and a batch too large fails at once; "given" keeps the order. `special_tokens` "exclude" leaves
    those out of the statistics, never out of what the model sees. `limit` is the most texts to read,
    blank ones not counted.
    """

    batch_size: int | Literal["auto"] = 32
    max_length: int | None = None
    order: str = "length"
    special_tokens: str = "include"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size != AUTO:
            require_positive("batch size", self.batch_size)
        for name, value in (("max length", self.max_length), ("limit", self.limit)):
            if value is not None:
                require_positive(name, value)
        _require_one_of("order", self.order, ORDERS)
        _require_one_of("special tokens", self.special_tokens, SPECIAL_TOKENS)


def require_positive(name: str, value: int) -> None:
    """Raise UsageError unless `value` is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} is {value!r}; expected a whole number from 1; change it")


def require_number(batch_size: int | Literal["auto"], what: str) -> int:
    """Return a batch size that is a number; UsageError for "auto", which is not for `what`."""
    if batch_size == "auto":
        raise UsageError(f"batch size is auto, which is not for {what}; expected a number; give one")
    return batch_size


def _require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}; choose one")


@dataclass(frozen=True)
class Batch:
    """B texts of up to T tokens, padded on the right.

    `inputs` is what the model is called with: `input_ids`, `attention_mask` and, where the tokenizer
    gives them, `token_type_ids`, each (B, T) int64. `mask` (B, T) is true at tokens that are not
    padding, `valid` (B, T) at those of them that the statistics count. `sources` are the places of
    the B texts in what was read, blank ones counted, from 0.
    """

    inputs: "dict[str, Tensor]"
    mask: "Tensor"
    valid: "Tensor"
    sources: tuple[int, ...]

    def part(self, rows: slice) -> "Batch":
        """Return some of its texts, padded to the longest of them."""
        longest = int(self.mask[rows].sum(1).max())
        inputs = {name: values[rows, :longest] for name, values in self.inputs.items()}
        return Batch(inputs, self.mask[rows, :longest], self.valid[rows, :longest], self.sources[rows])


class _Row(NamedTuple):
    """One tokenised text; `types` are its token type ids, if the tokenizer gives any.

    `source` is its place in what was read, and `cut` whether it was longer.
    """

    ids: list[int]
    types: list[int] | None
    source: int
    cut: bool


class _Text(NamedTuple):
    """One text and its place in what was read."""

    source: int
    text: str


class Batches:
    """The batches of `texts`, to be iterated once; a window of texts is held, never all of them.

    With `keep` all batches are held, and can be iterated again without tokenising again. `batching` may
    be changed until then.

    `max_length` is the model's own limit in tokens (see `length_limit`), then, as an attribute, the one
    that holds: this or the smaller `batching.max_length`. Longer texts are cut by the tokenizer, which
    keeps a closing [SEP].

    `tokens` is how many token slots a batch may have where they decide its size, None where texts do.

    `ended` is true once the texts, or the limit on them, have been reached.

    Counted so far: `texts` read and used, `truncated` those of them that were cut, `pending` those of
    them that no batch has handed out yet, and `skipped` the blank ones or without a token to count.

    Excluded special tokens are known by their ids: the tokenizer's cls, sep, bos and eos, and
    whatever its template puts around a text; unknown and mask tokens stay. So a literal "[SEP]" in
    a text is excluded too, being the same token to the model.

    They begin at `start`, the position that others have come to: what those have read is read once
    more, and not handed out again. Texts are `hashed` for a position that proves which they were.
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: "PreTrainedTokenizerBase",
        batching: Batching,
        *,
        max_length: int | None,
        keep: bool = False,
        hashed: bool = False,
        start: Position | None = None,
    ) -> None:
        if isinstance(texts, str):
            raise UsageError("texts is one string; expected an iterable of strings: put it in a list")
        self.texts = self.skipped = self.truncated = 0
        self.ended = False
        self._corpus = Corpus(texts, hashed=hashed)
        self._start = start
        self._rows: list[_Row] = []
        self._tokenizer: Any = tokenizer
        self.batching = batching
        self._left = batching.limit
        self._kept: list[Batch] | None = [] if keep else None
        self.tokens = AUTO_TOKENS if batching.batch_size == AUTO else None
        self._most = _WINDOW_TEXTS if batching.batch_size == "auto" else batching.batch_size
        added = _template(tokenizer)
        self.max_length = _agreed_length(batching.max_length, max_length, len(added))
        self._excluded: set[int] = set()
        if batching.special_tokens == "exclude":
            self._excluded = _special_ids(tokenizer, added)

    @property
    def expected(self) -> int | None:
        """Guess how many texts there are; None while a source that has not ended gives no hint."""
        if self.ended:
            return self.texts
        left = operator.length_hint(self._corpus)
        most = math.inf if self.batching.limit is None else self.batching.limit
        return int(min(self.texts + left, most)) if left else None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept and self.ended and not self.pending:
            yield from self._kept
            return
        for batch in self._made():
            if self._kept is not None:
                self._kept.append(batch)
            yield batch

    def _made(self) -> Iterator[Batch]:
        rows = self._rows
        if self._start is not None:
            self._catch_up(self._start)
            while len(rows) >= (size := self._fill(rows)):
                yield self._pad(self._take(rows, size))
        for window in self._windows():
            rows += self._tokenise(window)
            if self.batching.order == "length":
                rows.sort(key=lambda row: len(row.ids), reverse=True)
            # What does not fill a batch waits for the next window: only the last batch is smaller.
            while len(rows) >= (size := self._fill(rows)):
                yield self._pad(self._take(rows, size))
        while rows:
            yield self._pad(self._take(rows, self._fill(rows)))

    def one_by_one(self) -> None:
        """Let every batch have one text."""
        self.batching = replace(self.batching, batch_size=1)
        self._most, self.tokens = 1, None

    def shrink(self, texts: int, tokens: int) -> None:
        """Let later batches have half of so many texts, or where tokens decide of so many token slots."""
        self._most = max(1, texts // 2) if self.tokens is None else self._most
        self.tokens = None if self.tokens is None else max(1, tokens // 2)

    def grow(self) -> None:
        """Let later batches have twice the tokens, where tokens decide."""
        self.tokens = None if self.tokens is None else min(2 * self.tokens, _MOST_AUTO_TOKENS)

    def _fill(self, rows: list[_Row]) -> int:
        """Return how many of the rows fill a batch: one more than there are where they do not."""
        if self.tokens is None:
            return self._most
        longest = 0
        for number, row in enumerate(rows):
            longest = max(longest, len(row.ids))
            if number == self._most or (number and (number + 1) * longest > self.tokens):
                return number
        return len(rows) + 1

    def _take(self, rows: list[_Row], size: int) -> list[_Row]:
        taken = rows[:size]
        del rows[: len(taken)]
        return taken

    @property
    def pending(self) -> int:
        """How many texts were read and used that no batch has handed out yet."""
        return len(self._rows)

    def position(self) -> Position:
        """Tell how far they have come; only between two batches."""
        return Position(
            self._corpus.read,
            self._corpus.digest,
            self.texts,
            self.skipped,
            self.truncated,
            tuple(row.source for row in self._rows),
            sum(row.cut for row in self._rows),
        )

    def _catch_up(self, start: Position) -> None:
        """Read what was read, and take up again what was pending; TextError where it is not the same."""
        pending, again = set(start.pending), []
        while self._corpus.read < start.read and (read := self._next_text()) is not None:
            self._left = None if self._left is None else self._left - 1
            again += [read] if read.source in pending else []
        if (self._corpus.read, self._corpus.digest) != (start.read, start.digest):
            shorter = self._corpus.read < start.read
            got = f"ends after {self._corpus.read}" if shorter else f"differs within the first {start.read}"
            raise TextError(
                f"the corpus {got} texts; expected the {start.read} that the checkpoint was made from; "
                "give the same texts, or remove the checkpoint and begin anew"
            )
        rows = {row.source: row for row in (self._tokenise(again) if again else ())}
        if rows.keys() != pending:
            raise TextError(
                f"the checkpoint has {len(pending)} texts pending, {len(rows)} of them with tokens now; "
                "expected all; begin anew, for the tokenizer has changed"
            )
        self._rows += [rows[source] for source in start.pending]
        self.texts, self.skipped, self.truncated = start.texts, start.skipped, start.truncated

    def _windows(self) -> Iterator[list[_Text]]:
        """Cut the source into windows, without blank texts, and never read past the limit."""
        most = min(_WINDOW_TEXTS, _WINDOW_BATCHES * self._most)
        window: list[_Text] = []
        characters = 0
        while self._left is None or self._left > 0:
            read = self._next_text()
            if read is None:
                break
            window.append(read)
            characters += len(read.text)
            self._left = None if self._left is None else self._left - 1
            if len(window) == most or characters >= _WINDOW_CHARACTERS:
                yield window
                window, characters = [], 0
        self.ended = True
        if window:
            yield window

    def _next_text(self) -> _Text | None:
        for text in self._corpus:
            index = self._corpus.read - 1
            if not isinstance(text, str):
                raise TextError(f"text at index {index} is {type(text).__name__}; expected str; convert it")
            if text and not text.isspace():
                _require_unicode(text, index)
                return _Text(index, text)
            self.skipped += 1
        return None

    def _tokenise(self, texts: list[_Text]) -> list[_Row]:
        """Tokenise a window, leaving out the texts without a token to count."""
        limit = self.max_length
        starts = [_Text(read.source, self._beginning(read.text)) for read in texts]
        rows = self._encode(starts, truncation=False)
        for i, (start, read) in enumerate(zip(starts, texts, strict=True)):
            # Few characters a token are many enough: the end of the beginning is far beyond the limit.
            if limit is not None and start.text is not read.text and len(rows[i].ids) <= 2 * limit:
                starts[i], rows[i] = read, self._encode([read], truncation=False)[0]
        long = [] if limit is None else [i for i, row in enumerate(rows) if len(row.ids) > limit]
        if long:
            # Cutting is left to the tokenizer, which knows what its template puts around a text.
            cut = self._encode([starts[i] for i in long], truncation=True, max_length=limit)
            for i, row in zip(long, cut, strict=True):
                rows[i] = row._replace(cut=True)
        counted = [not self._excluded.issuperset(row.ids) for row in rows]
        self.texts += sum(counted)
        self.skipped += len(rows) - sum(counted)
        self.truncated += sum(counted[i] for i in long)
        return [row for row, counts in zip(rows, counted, strict=True) if counts]

    def _beginning(self, text: str) -> str:
        """Return so much of a long text, whole words, as should hold far more tokens than are used.

        To tokenise a whole book for its first 512 tokens would take seconds.
        """
        limit = self.max_length
        if limit is None or len(text) <= limit * _CHARACTERS or self._tokenizer.truncation_side != "right":
            return text
        end = _SPACE.search(text, limit * _CHARACTERS)
        return text[: end.start()] if end else text

    def _encode(self, texts: list[_Text], **truncation: Any) -> list[_Row]:
        rows: list[_Row] = []
        for start in range(0, len(texts), _TOKENISED):
            part = texts[start : start + _TOKENISED]
            # verbose=False keeps back a warning about the very lengths that are dealt with here.
            encoded = self._tokenizer(
                [read.text for read in part], padding=False, verbose=False, **truncation
            )
            types = encoded.get("token_type_ids") or [None] * len(part)
            found = zip(encoded["input_ids"], types, part, strict=True)
            rows += [_Row(ids, kinds, read.source, cut=False) for ids, kinds, read in found]
        return rows

    def _pad(self, rows: list[_Row]) -> Batch:
        """Pad on the right, whatever side the tokenizer prefers for generation.

        So token t is at position t without any position_ids, as models with learned positions such
        as GPT-2 need it; causal attention never looks right, and others are masked.
        """
        import torch

        tokenizer = self._tokenizer
        lengths = torch.tensor([len(row.ids) for row in rows])  # (B,)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, T)
        ids = torch.full(mask.shape, _pad_id(tokenizer), dtype=torch.int64)
        ids[mask] = torch.tensor([i for row in rows for i in row.ids])
        inputs = {"input_ids": ids, "attention_mask": mask.to(torch.int64)}
        if rows[0].types is not None:
            kinds = torch.full(mask.shape, tokenizer.pad_token_type_id or 0, dtype=torch.int64)
            kinds[mask] = torch.tensor([kind for row in rows for kind in row.types or ()])
            inputs["token_type_ids"] = kinds
        special = torch.isin(ids, torch.tensor(sorted(self._excluded), dtype=torch.int64))
        return Batch(inputs, mask, mask & ~special, tuple(row.source for row in rows))


def length_limit(tokenizer: "PreTrainedTokenizerBase | None", config: Any) -> int | None:
    """The most tokens the model takes, after its tokenizer and its configuration; None if neither says.

    RoBERTa and its kin number positions from the padding id plus one: of 514 rows 512 can be used.
    """
    limits = [getattr(tokenizer, "model_max_length", None), _position_limit(_text_config(config))]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < _UNLIMITED]
    return min(known, default=None)


def _text_config(config: Any) -> Any:
    """The part of a multimodal configuration that is about text."""
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):  # not of transformers, or with more than one such part
        return getattr(config, "text_config", None) or config


def _position_limit(config: Any) -> int | None:
    values = [getattr(config, name, None) for name in _LENGTH_NAMES]
    rows = min((value for value in values if isinstance(value, int) and value > 0), default=None)
    kind = getattr(config, "model_type", None)
    if rows is None or kind not in _POSITIONS_AFTER_PADDING:
        return rows
    pad = getattr(config, "pad_token_id", None)
    return rows - (1 if pad is None or kind == "mpnet" else pad) - 1  # MPNet's padding is always 1


def _agreed_length(asked: int | None, model: int | None, added: int) -> int | None:
    if asked is None:
        return model
    if model is not None and asked > model:
        raise UsageError(f"max length is {asked}; expected at most {model}, the model's limit; lower it")
    if asked <= added:
        least = f"expected at least {added + 1}, for {added} of them are special tokens"
        raise UsageError(f"max length is {asked}; {least}; raise it")
    return asked


def _template(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts around every text."""
    bare = tokenizer("a", add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    whole = list(tokenizer("a", truncation=False, padding=False)["input_ids"])
    for token in bare:
        if token in whole:
            whole.remove(token)
    return whole


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Return the ids of the tokens that the tokenizer puts around a text, and of those so named."""
    return _special_ids(tokenizer, _template(tokenizer))


def _special_ids(tokenizer: Any, template: list[int]) -> set[int]:
    named = (getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos"))
    return {token for token in (*named, *template) if token is not None}


def _pad_id(tokenizer: Any) -> int:
    """Any id will do where the tokenizer has none for padding: no real token ever attends to it."""
    ids = (getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos"))
    return next((token for token in ids if token is not None), 0)


def _require_unicode(text: str, index: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f"at its character {error.start + 1}"
        raise TextError(
            f"the text at index {index} holds half a UTF-16 pair {place}; expected Unicode; remove it"
        ) from error
