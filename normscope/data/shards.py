"""Shards: one of N parts of a corpus, for jobs that share it."""

import math
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from normscope.data.media_files import Inputs
from normscope.data.repeated_texts import Unique
from normscope.errors import UsageError
from normscope.escaping import quoted


@dataclass(frozen=True)
class Shard:
    """Every `count`-th text, from the `number`-th on: one of so many parts of a corpus.

    Together the shards hold each text once, blank ones too, so that their reports merge to the whole's.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(f"shard is {self}; expected I/N with I from 1 to N, such as 1/4; change it")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Return the shard that is written "I/N"; UsageError for anything else."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None:
            raise UsageError(f"shard is {quoted(text)}; expected I/N, such as 1/4; change it")
        return cls(int(found[1]), int(found[2]))

    def of(self, given: Inputs, limit: int | None, *, unique: bool = False) -> Inputs:
        """Return this part of the first `limit` samples of what was given, for `unique` see `Batching`."""
        part = slice(self.number - 1, limit, self.count)
        images, audio = given.images[part], given.audio[part]
        if images or audio or given.images or given.audio:
            texts = None if given.texts is None else islice(given.texts, self.number - 1, limit, self.count)
            return Inputs(texts, images, audio)
        if given.texts is None:
            return given
        return Inputs(_Part(Unique(given.texts) if unique else given.texts, self, limit))


class _Part(Iterator[str]):
    """The texts of one shard; a blank one goes with the next that is not, and is not counted."""

    def __init__(self, texts: Iterable[str], shard: Shard, limit: int | None) -> None:
        self._texts, self._shard = iter(texts), shard
        self._left = math.inf if limit is None else limit
        self._seen = 0

    def __next__(self) -> str:
        while self._left > 0:
            text = next(self._texts)
            ours = self._seen % self._shard.count == self._shard.number - 1
            if not (isinstance(text, str) and (not text or text.isspace())):
                self._seen += 1
                self._left -= 1
            if ours:
                return text
        raise StopIteration

    def __length_hint__(self) -> int:
        left = operator.length_hint(self._texts)
        return -(-int(min(left, self._left)) // self._shard.count)


def missing(shards: Iterable[str]) -> list[str]:
    """Return what to say of shards, each "I/N", whose others are not among them."""
    known: dict[int, set[int]] = {}
    for text in shards:
        shard = Shard.read(text)
        known.setdefault(shard.count, set()).add(shard.number)
    return [
        f"shards are missing: {count - len(n)} of {count}, the first is {_first_not_in(n)}/{count}"
        for count, n in known.items()
        if len(n) < count
    ]


def _first_not_in(numbers: set[int]) -> int:
    return next(i for i in range(1, len(numbers) + 2) if i not in numbers)
