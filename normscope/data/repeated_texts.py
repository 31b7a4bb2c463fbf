"""Finds exact repeats of texts by 8-byte digests, in bounded memory."""

import operator
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

# The digests of this many different texts take 128 MiB. The texts after them count as new.
MAX_DIGESTS = 1 << 24
# New digests collect in a set, about 100 bytes each, before they are sorted in among the others.
MAX_UNSORTED = 1 << 16


class Repeats:
    """The texts that were seen so far, stored as digests."""

    def __init__(self) -> None:
        self._sorted: Any = array("Q")
        self._unsorted: set[int] = set()

    def seen(self, text: str) -> bool:
        """Return whether an equal text was seen before, and remember this one."""
        raw = text.encode("utf-8", "surrogatepass")
        digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")
        if digest in self._unsorted or self._is_sorted(digest):
            return True
        if len(self._sorted) + len(self._unsorted) < MAX_DIGESTS:
            self._unsorted.add(digest)
        if len(self._unsorted) == MAX_UNSORTED:
            import numpy as np

            unsorted = np.fromiter(self._unsorted, dtype=np.uint64, count=MAX_UNSORTED)
            self._sorted = np.sort(np.concatenate([self._sorted, unsorted]))
            self._unsorted.clear()
        return False

    def _is_sorted(self, digest: int) -> bool:
        index = bisect_left(self._sorted, digest)
        return index < len(self._sorted) and int(self._sorted[index]) == digest


class Unique(Iterator[str]):
    """The same texts, with a blank one in place of each that repeats an earlier one; `repeated` counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._repeats = iter(texts), Repeats()
        self.repeated = 0

    def __next__(self) -> str:
        text = next(self._texts)
        # Values that are not strings pass: the reader of the texts refuses them.
        repeats = isinstance(text, str) and self._repeats.seen(text)
        self.repeated += repeats and not text.isspace() and text != ""
        return "" if repeats else text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)
