"""Random, sorted and given orders of texts in batches, repeatable by seed on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from normscope.data.batching import require_positive, require_seed
from normscope.errors import UsageError

# "random": as in training. "length": similar lengths together, as in loaders that save padding. "given": in
# the order of the corpus.
ORDERS = ("random", "length", "given")

_MAX_SIZE = 1024
_MIN_BATCHES = 4

_Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Drawing:
    """How batches are drawn from the sample of texts; UsageError for a value out of its range.

    `sizes` are numbers of texts per batch; without any, powers of two from 2 to 1,024 that give at least
    four batches. All texts are put into new batches `draws` times. `seed` is the random seed. `momentum`,
    in (0, 1], adds running statistics as nn.BatchNorm1d stores them: running = (1 - momentum) running +
    momentum batch. The sample has at most `samples` texts, and no more than fit in `table_memory` bytes.
    """

    sizes: tuple[int, ...] = ()
    draws: int = 4
    seed: int = 0
    momentum: float | None = None
    samples: int = 2048
    table_memory: int = 1 << 30

    def __post_init__(self) -> None:
        for size in self.sizes:
            require_positive("a size of --sizes", size)
        named = {"draws": self.draws, "samples": self.samples, "table memory": self.table_memory}
        for name, value in named.items():
            require_positive(name, value)
        require_seed(self.seed)
        if self.momentum is not None and not 0 < self.momentum <= 1:
            raise UsageError(
                f"momentum is {self.momentum!r}; expected over 0 and at most 1; PyTorch's is 0.1"
            )


@dataclass(frozen=True)
class Plan:
    """All batches of one size and order: `texts` (batches, size) numbers the texts of each."""

    size: int
    order: str
    texts: _Indices


def random_bits(*keys: int) -> int:
    """Return 64 bits that look random and follow from `keys` alone, on every machine."""
    written = " ".join(map(str, keys)).encode()
    return int.from_bytes(blake2b(written, digest_size=8).digest(), "big")


def plans(drawing: Drawing, sources: Sequence[int], lengths: Sequence[int]) -> list[Plan]:
    """Draw the batches of every size and order from texts in their given order.

    `sources` are the texts' positions in the corpus, which the random order depends on, and `lengths`
    their numbers of tokens. Texts that do not fill a batch are left out, random ones in a random order.
    Batches of similar length come in random order, as in a training loop. Sizes over the number of texts
    are left out.
    """
    shuffles = [_shuffled(sources, drawing.seed, draw + 1) for draw in range(drawing.draws)]
    drawn = []
    for size in _sizes(drawing, len(sources)):
        used = len(sources) // size * size
        random = [shuffle[:used].reshape(-1, size) for shuffle in shuffles]
        by_length = [
            _by_length(texts, np.asarray(lengths), np.asarray(sources), (drawing.seed, 0, size, draw))
            for draw, texts in enumerate(random)
        ]
        drawn += [
            Plan(size, "random", np.concatenate(random)),
            Plan(size, "length", np.concatenate(by_length)),
            Plan(size, "given", np.arange(used).reshape(-1, size)),
        ]
    return drawn


def _sizes(drawing: Drawing, texts: int) -> list[int]:
    if drawing.sizes:
        return sorted({size for size in drawing.sizes if size <= texts})
    powers = [2**power for power in range(1, _MAX_SIZE.bit_length())]
    maximum = max(2, texts // _MIN_BATCHES)
    return [size for size in powers if size <= min(maximum, texts)]


def _shuffled(sources: Sequence[int], *keys: int) -> _Indices:
    """Return 0, 1, ... len(sources) - 1 in random order."""
    order = sorted(range(len(sources)), key=lambda i: (random_bits(*keys, sources[i]), i))
    return np.asarray(order, dtype=np.int64)


def _by_length(texts: _Indices, lengths: _Indices, sources: _Indices, keys: tuple[int, ...]) -> _Indices:
    """Put the texts of shuffled batches (batches, size) into batches of similar length, ties at random."""
    size, flat = texts.shape[1], texts.reshape(-1)
    batches = flat[np.argsort(lengths[flat], kind="stable")].reshape(-1, size)
    first: list[int] = sources[batches[:, 0]].tolist()
    return batches[_shuffled(first, *keys)]
