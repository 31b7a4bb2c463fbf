"""The position of a run in its corpus, with a digest that proves it is the same corpus."""

import hashlib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """How far a run has come in its texts, between two batches.

    `read` texts were read, blank ones counted; `digest` is of all of them. `pending` are the places of
    those that no batch has had yet, in the order in which they are to come; `pending_truncated` of these
    were cut, and `pending_repeated` repeat an earlier text. `ended` says that there are no more to read.
    The others are counted as `Batches` does.
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
    """The texts of a run, counted and, `hashed`, proved on the way."""

    def __init__(self, texts: Iterable[str], *, hashed: bool = False) -> None:
        self._texts = iter(texts)
        self._hash = hashlib.blake2b(digest_size=16) if hashed else None
        self.read = 0

    def __next__(self) -> str:
        text = next(self._texts)
        self.read += 1
        if self._hash is not None and isinstance(text, str):
            raw = text.encode("utf-8", "surrogatepass")
            self._hash.update(len(raw).to_bytes(8, "little") + raw)
        return text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)

    @property
    def digest(self) -> str:
        """What the texts read so far are known by."""
        return self._hash.hexdigest() if self._hash is not None else ""
