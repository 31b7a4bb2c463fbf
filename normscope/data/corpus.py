"""The corpus of a run: the position in it, a digest that proves it is the same, and notes on its texts."""

import hashlib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.errors import TextError
from normscope.escaping import counted, grouped

if TYPE_CHECKING:
    from normscope.results.common import RunInfo

# From this share of unknown tokens, or of repeated texts, a note says so.
NOTED_SHARE = 0.05


@dataclass(frozen=True)
class Position:
    """The position of a run in its texts, between two batches.

    `read` texts were read, including blank ones; `digest` is of all of them. `pending` are the indices of
    texts that no batch has contained yet, in their later order; `pending_truncated` of these were cut, and
    `pending_repeated` repeat an earlier text. `ended` says that there are no more texts to read. The other
    counts are those of `Batches`.
    """

    read: int = 0
    digest: str = ""
    texts: int = 0
    skipped: int = 0
    truncated: int = 0
    pending: tuple[int, ...] = ()
    pending_truncated: int = 0
    ended: bool = False
    repeated: int = 0
    pending_repeated: int = 0


class CorpusReader(Iterator[str]):
    """Reads the texts of a run, counts them, and hashes them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self._hash = hashlib.sha256()
        self.read = 0

    def __next__(self) -> str:
        text = next(self._texts)
        self.read += 1
        if isinstance(text, str):  # The reader of the texts refuses other values.
            self._hash.update(text.encode("utf-8", "surrogatepass") + b"\n")
        return text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)

    @property
    def digest(self) -> str:
        """The SHA-256 of all texts that were read so far, each followed by a line feed.

        So `sha256sum` gives the same of a file with a text in every line.
        """
        return self._hash.hexdigest()


def notes_on_texts(run: "RunInfo") -> list[str]:
    """Return warnings about the texts of a run: many unknown tokens, many exact repeats."""
    notes = []
    if run.unknown_tokens and run.unknown_tokens >= NOTED_SHARE * run.tokens:
        notes.append(
            f"{run.unknown_tokens / run.tokens:.1%} of the tokens are the tokenizer's unknown token: all "
            "words that it cannot read are one token to the model; give texts in a language that it reads"
        )
    if run.repeated_texts and run.repeated_texts >= NOTED_SHARE * run.texts:
        notes.append(
            f"{run.repeated_texts / run.texts:.1%} of the texts repeat an earlier one exactly, and count "
            "each time; --unique (Batching(unique=True)) leaves them out"
        )
    return notes


def notes_on_left_out(run: "RunInfo") -> list[str]:
    """Return a warning that counts the tokens that the rules of a run left out, if it has such rules."""
    rules, counts = run.selection, run.left_out
    if rules is None or counts is None:
        return []
    special = [f"{grouped(counts.special)} special"] if run.special_tokens == "exclude" else []
    others = [f"{grouped(getattr(counts, rule))} {which}" for rule, which in rules.rules().items()]
    said = ", ".join([*special, *others])
    return [f"tokens left out: {said}; {grouped(run.tokens)} count"] if said else []


def no_text(blank: int, *, selected: bool = False) -> TextError:
    """Return the error for a corpus without text; `blank` texts were in it.

    If tokens were `selected`, these texts may only hold tokens that do not count.
    """
    if selected and blank:
        return TextError(
            f"no token to measure in {counted(blank, 'text')}; expected at least one that counts; "
            "leave fewer out by --exclude-tokens, --skip-first, --drop-massive or --roles"
        )
    return TextError(f"no text to measure ({blank} blank); expected at least one text with a word in it")
