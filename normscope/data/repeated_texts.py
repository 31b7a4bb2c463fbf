"""Finds exact repeats of texts by 8-byte digests, in bounded memory."""

import operator
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

# Of so many different texts the digests are kept: 128 MiB. Later ones are taken for new.
MOST = 1 << 24
# So many wait in a set, where each takes about 100 bytes, before they are sorted in among the others.
RECENT = 1 << 16


class Repeats:
    """The texts that were seen so far, of which only digests are kept."""

    def __init__(self) -> None:
        self._sorted: Any = array("Q")
        self._recent: set[int] = set()

    def again(self, text: str) -> bool:
        """Tell whether an equal text was seen before, and remember this one."""
        raw = text.encode("utf-8", "surrogatepass")
        digest = int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")
        if digest in self._recent or self._is_sorted(digest):
            return True
        if len(self._sorted) + len(self._recent) < MOST:
            self._recent.add(digest)
        if len(self._recent) == RECENT:
            import numpy as np

            recent = np.fromiter(self._recent, dtype=np.uint64, count=RECENT)
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return False

    def _is_sorted(self, digest: int) -> bool:
        place = bisect_left(self._sorted, digest)
        return place < len(self._sorted) and int(self._sorted[place]) == digest


class Unique(Iterator[str]):
    """The same texts, with a blank one in the place of each that repeats an earlier one; `repeated` counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._repeats = iter(texts), Repeats()
        self.repeated = 0

    def __next__(self) -> str:
        text = next(self._texts)
        # What is no text is refused by who reads it.
        # Blank texts stay what they are: they count as blank, not as repeats.
        again = isinstance(text, str) and bool(text.strip()) and self._repeats.again(text)
        self.repeated += again
        return "" if again else text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)
