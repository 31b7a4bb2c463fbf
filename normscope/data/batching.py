"""Batches of texts: tokenized, ordered by length and padded for the model."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from normscope.data.batch import Batch, padded
from normscope.data.batch_size import BatchSize
from normscope.data.conversations import ChatTemplate
from normscope.data.corpus import CorpusReader, Position
from normscope.data.repeated_texts import Repeats, Unique
from normscope.data.text_lines import lone_surrogate
from normscope.data.token_selection import require_rules
from normscope.data.tokenization import Row, Text, TextEncoder
from normscope.errors import TextError, UsageError
from normscope.escaping import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ORDERS = ("length", "given")
_SPECIAL_TOKENS = ("include", "exclude")

AUTO: Literal["auto"] = "auto"

# A window of texts is tokenised and sorted together: long enough to sort well, short enough for memory.
_WINDOW_BATCHES = 64
_WINDOW_TEXTS = 4096
_WINDOW_CHARACTERS = 1 << 21


@dataclass(frozen=True)
class Batching:
    """The options that make batches of texts; UsageError for a value out of its range.

    `batch_size` "auto" fills a batch up to 4,096 tokens, including padding; on a GPU more while its memory
    is far from full. `max_length` None is the model's own limit. `order` "length" puts texts of similar
    length into one batch, longest first, so that there is little padding and a batch that is too large
    fails at once; "given" keeps the order. `special_tokens` "exclude" leaves special tokens out of the
    statistics, but not out of the model's input. `limit` is the maximum number of texts to read, without
    blank ones. `unique` skips exact repeats of earlier texts, like blank texts.

    More rules leave tokens out of the statistics only: `exclude_tokens`, ids or texts of one token; the
    `skip_first` positions of each text; and with `drop_massive` tokens with a massive activation, which a
    run of the batch before the measured one finds. With `chat_template` each text is a conversation, the
    JSON of a list of messages, which the tokenizer's template writes; only tokens of the `roles` count, all
    if there are none.
    """

    batch_size: int | Literal["auto"] = 32
    max_length: int | None = None
    order: str = "length"
    special_tokens: str = "include"
    limit: int | None = None
    unique: bool = False
    exclude_tokens: Sequence[int | str] = ()
    skip_first: int = 0
    drop_massive: bool = False
    chat_template: bool = False
    roles: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.batch_size != AUTO:
            require_positive("batch size", self.batch_size)
        for name, value in (("max length", self.max_length), ("limit", self.limit)):
            if value is not None:
                require_positive(name, value)
        _require_one_of("order", self.order, ORDERS)
        _require_one_of("special tokens", self.special_tokens, _SPECIAL_TOKENS)
        require_rules(self.exclude_tokens, self.skip_first)
        _require_roles(self.roles, chat=self.chat_template)


def _require_roles(roles: Sequence[str], *, chat: bool) -> None:
    if isinstance(roles, str) or not all(isinstance(role, str) and role for role in roles):
        raise UsageError(f"roles is {roles!r}; expected a list of names, as ['assistant']; change it")
    if roles and not chat:
        raise UsageError(
            "roles were given without a chat template; expected both, for only messages have roles; add "
            "--chat-template (Batching(chat_template=True)), or leave --roles out"
        )


def require_positive(name: str, value: int) -> None:
    """Raise UsageError unless `value` is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} is {value!r}; expected a whole number from 1; change it")


def require_seed(seed: int) -> None:
    """Raise UsageError unless `seed` is a whole number that torch's generators take."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
        raise UsageError(f"seed is {seed!r}; expected a whole number from 0, below 2^63; change it")


def require_number(batch_size: int | Literal["auto"], what: str) -> int:
    """Return the batch size if it is a number; UsageError for "auto", which `what` cannot use."""
    if batch_size == "auto":
        raise UsageError(f"batch size is auto, which is not for {what}; expected a number; give one")
    return batch_size


def _require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}; choose one")


class Batches:
    """The batches of `texts`, to be iterated once; only a window of texts is in memory.

    With `keep` all batches stay in memory, and can be iterated again without tokenising. `start` is the id
    that the model's decoder begins with, if it has one. `screen` may leave more tokens of a batch out; a
    text without any token left is skipped.

    The argument `max_length` is the model's own limit in tokens (see `length_limit`). The attribute is the
    limit that applies: this one or a smaller `batching.max_length`. The tokenizer cuts longer texts, and
    keeps a closing [SEP].

    `size` is the size of the batches that come next. `ended` is true when all texts, or as many as the
    limit allows, are read.

    The counts so far: `texts` were read and used, `truncated` of them were cut, `repeated` of them repeat
    an earlier one, and `pending` of them are in no batch yet. `skipped` were blank or without a token to
    count.

    Excluded special tokens are recognised by their ids: the tokenizer's cls, sep, bos and eos, and all that
    its template puts around a text; unknown and mask tokens stay. A literal "[SEP]" in a text is excluded
    too, because it is the same token to the model.
    """

    def __init__(
        self,
        texts: Iterable[str],
        tokenizer: "PreTrainedTokenizerBase",
        batching: Batching,
        *,
        max_length: int | None,
        keep: bool = False,
        start: int | None = None,
        screen: Callable[[Batch], Batch] | None = None,
    ) -> None:
        if isinstance(texts, str):
            raise UsageError("texts is one string; expected an iterable of strings: put it in a list")
        self.texts = self.skipped = self.truncated = self.repeated = 0
        self.ended = False
        self._corpus = CorpusReader(texts)
        self._texts = Unique(self._corpus) if batching.unique else self._corpus
        self._repeats = None if batching.unique else Repeats()
        self._start: Position | None = None
        self._rows: list[Row] = []
        self._batching = batching
        self._left = batching.limit
        self._finished: list[Batch] | None = [] if keep else None
        self.size = BatchSize(None if batching.batch_size == "auto" else batching.batch_size)
        self._encoder = TextEncoder(
            tokenizer,
            asked=batching.max_length,
            limit=max_length,
            excluding=batching.special_tokens == "exclude",
            exclude=batching.exclude_tokens,
            first=batching.skip_first,
            chat=ChatTemplate(tokenizer, batching.roles) if batching.chat_template else None,
        )
        self._start_id, self._screen = start, screen
        self.max_length = self._encoder.max_length

    @property
    def excluded(self) -> tuple[int, ...]:
        """The ids of the tokens that `exclude_tokens` names, in order."""
        return tuple(sorted(self._encoder.rules.excluded))

    @property
    def batching(self) -> Batching:
        """The options of these batches; their batch size is 1 where texts have to run one by one."""
        return replace(self._batching, batch_size=self.size.asked or AUTO)

    def resume(self, start: Position) -> None:
        """Begin at the position of an earlier run: of the texts before it, only pending ones run again."""
        self._start = start

    @property
    def expected(self) -> int | None:
        """An estimate of the number of texts; None while a source that has not ended gives no hint."""
        if self.ended:
            return self.texts
        left = operator.length_hint(self._texts)
        limit = math.inf if self._batching.limit is None else self._batching.limit
        return int(min(self.texts + left, limit)) if left else None

    def __iter__(self) -> Iterator[Batch]:
        if self._finished and self.ended and not self.pending:
            yield from self._finished
            return
        for batch in self._batches():
            if self._finished is not None:
                self._finished.append(batch)
            yield batch

    def _batches(self) -> Iterator[Batch]:
        if self._start is not None:
            self._catch_up(self._start)
            yield from self._full_batches()
        for window in self._windows():
            self._rows += self._tokenise(window)
            if self._batching.order == "length":
                self._rows.sort(key=lambda row: len(row.ids), reverse=True)
            # Texts that do not fill a batch wait for the next window: only the last batch is smaller.
            yield from self._full_batches()
        while self._rows:
            yield from self._next_batch(self._fill())

    def _full_batches(self) -> Iterator[Batch]:
        while len(self._rows) >= (size := self._fill()):
            yield from self._next_batch(size)

    def unknown_in(self, batch: Batch) -> int:
        """Return how many counted tokens of a batch are the tokenizer's unknown token."""
        unknown = self._encoder.unknown
        return 0 if unknown is None else int((batch.valid & (batch.inputs["input_ids"] == unknown)).sum())

    def _fill(self) -> int:
        """Return how many of the pending rows fill a batch; more than there are if they do not."""
        return self.size.fill(len(row.ids) for row in self._rows)

    def _next_batch(self, size: int) -> Iterator[Batch]:
        """Yield the batch of the next rows, or nothing if no token of it is left after screening."""
        rows = self._rows[:size]
        del self._rows[:size]
        batch = padded(rows, self._encoder, self._start_id)
        if self._screen is None:
            yield batch
            return
        batch = self._screen(batch)
        used = batch.valid.any(1)
        for row, counts in zip(rows, used.tolist(), strict=True):
            if not counts:
                self._skip(row)
        if used.all():
            yield batch
        elif used.any():
            yield replace(batch.take(used), left_out=batch.left_out)

    def _skip(self, row: Row) -> None:
        """Count a text that was used so far as skipped."""
        self.texts -= 1
        self.skipped += 1
        self.truncated -= row.cut
        self.repeated -= row.repeated

    @property
    def pending(self) -> int:
        """The number of texts that were read and used, but are in no batch yet."""
        return len(self._rows)

    def position(self) -> Position:
        """Return the position in the texts; only between two batches."""
        return Position(
            self._corpus.read,
            self._corpus.digest,
            self.texts,
            self.skipped,
            self.truncated,
            tuple(row.source for row in self._rows),
            sum(row.cut for row in self._rows),
            self.ended and self._left != 0,
            self.repeated,
            sum(row.repeated for row in self._rows),
        )

    def _catch_up(self, start: Position) -> None:
        """Read up to an earlier run's position, and restore its pending texts; TextError if one differs."""
        pending, texts = set(start.pending), []
        while self._corpus.read < start.read and (text := self._next_text()) is not None:
            self._left = None if self._left is None else self._left - 1
            texts += [text] if text.source in pending else []
        if (self._corpus.read, self._corpus.digest) != (start.read, start.digest):
            shorter = self._corpus.read < start.read
            how = "ends after" if shorter else "differs within the first"
            got = f"{how} {counted(self._corpus.read if shorter else start.read, 'text')}"
            raise TextError(
                f"the corpus {got}; expected the {start.read} that the checkpoint was made from; "
                "give the same texts, or remove the checkpoint and start over"
            )
        if start.ended and self._next_text() is not None:
            raise TextError(
                f"the corpus goes on after {start.read} texts; expected its end, as when the checkpoint was "
                "made; give the same texts, or remove the checkpoint and start over"
            )
        rows = {row.source: row for row in (self._tokenise(texts) if texts else ())}
        if rows.keys() != pending:
            raise TextError(
                f"the checkpoint has {counted(len(pending), 'text')} pending, {len(rows)} of them "
                "with tokens now; expected all; start over, because the tokenizer has changed"
            )
        self._rows += [rows[source] for source in start.pending]
        self.texts, self.skipped = start.texts, start.skipped
        self.truncated, self.repeated = start.truncated, start.repeated

    def _windows(self) -> Iterator[list[Text]]:
        """Yield windows of texts, without blank ones, and without reading past the limit."""
        size = min(_WINDOW_TEXTS, _WINDOW_BATCHES * self.size.texts)
        window: list[Text] = []
        characters = 0
        while self._left is None or self._left > 0:
            text = self._next_text()
            if text is None:
                break
            window.append(text)
            characters += len(text.text)
            self._left = None if self._left is None else self._left - 1
            if len(window) == size or characters >= _WINDOW_CHARACTERS:
                yield window
                window, characters = [], 0
        self.ended = True
        if window:
            yield window

    def _next_text(self) -> Text | None:
        for text in self._texts:
            index = self._corpus.read - 1
            if not isinstance(text, str):
                raise TextError(f"text at index {index} is {type(text).__name__}; expected str; convert it")
            if text and not text.isspace():
                if (position := lone_surrogate(text)) is not None:
                    got = (
                        f"the text at index {index} holds half a UTF-16 pair at its character {position + 1}"
                    )
                    raise TextError(f"{got}; expected Unicode; remove it")
                return Text(index, text, self._repeats is not None and self._repeats.seen(text))
            self.skipped += 1
        return None

    def _tokenise(self, texts: list[Text]) -> list[Row]:
        """Tokenise a window, without the texts that have no token to count."""
        rows = self._encoder.encode(texts)
        used = [row for row in rows if self._encoder.counts(row)]
        self.texts += len(used)
        self.skipped += len(rows) - len(used)
        self.truncated += sum(row.cut for row in used)
        self.repeated += sum(row.repeated for row in used)
        return used
