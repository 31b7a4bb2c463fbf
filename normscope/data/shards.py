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
    """One of `count` parts of a corpus: every `count`-th text, from the `number`-th on.

    Together the shards hold each text once, also blank ones, so that their reports merge to that of the
    whole corpus.
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
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if match is None:
            raise UsageError(f"shard is {quoted(text)}; expected I/N, such as 1/4; change it")
        return cls(int(match[1]), int(match[2]))

    def of(self, inputs: Inputs, limit: int | None, *, unique: bool = False) -> Inputs:
        """Return this part of the first `limit` samples of the inputs; for `unique` see `Batching`."""
        part = slice(self.number - 1, limit, self.count)
        images, audio = inputs.images[part], inputs.audio[part]
        if inputs.images or inputs.audio:
            texts = None if inputs.texts is None else islice(inputs.texts, self.number - 1, limit, self.count)
            return Inputs(texts, images, audio)
        if inputs.texts is None:
            return inputs
        return Inputs(_ShardTexts(Unique(inputs.texts) if unique else inputs.texts, self, limit))


class _ShardTexts(Iterator[str]):
    """The texts of one shard; a blank text belongs to the shard of the next text that is not blank."""

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
    """Return a warning for each count N for which some of the shards "I/N" are missing."""
    numbers_of: dict[int, set[int]] = {}
    for text in shards:
        shard = Shard.read(text)
        numbers_of.setdefault(shard.count, set()).add(shard.number)
    return [
        f"shards are missing: {count - len(n)} of {count}, the first is {_first_not_in(n)}/{count}"
        for count, n in numbers_of.items()
        if len(n) < count
    ]


def _first_not_in(numbers: set[int]) -> int:
    return next(i for i in range(1, len(numbers) + 2) if i not in numbers)
