"""Random, sorted and given orders of texts in batches, repeatable by seed on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from normscope.data.batching import require_positive, require_seed
from normscope.errors import UsageError

# "random" texts, as training draws them; of like "length", as loaders that save padding do; as "given".
ORDERS = ("random", "length", "given")

_LARGEST = 1024
_LEAST_BATCHES = 4

_Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Drawing:
    """How batches are drawn from the texts that are kept; UsageError for a value out of its range.

    `sizes` are texts per batch; without any, powers of two from 2 to 1,024 that give four batches.
    `draws` is how often all texts are put into batches anew, `seed` decides all that is left to
    chance. `momentum`, in (0, 1], asks for running statistics as nn.BatchNorm1d keeps them:
    running = (1 - momentum) running + momentum batch. At most `samples` texts are kept, and no more
    than fit `table_memory` bytes.
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


def chance(*keys: int) -> int:
    """Return 64 bits that look random and follow from `keys` alone, on every machine."""
    written = " ".join(map(str, keys)).encode()
    return int.from_bytes(blake2b(written, digest_size=8).digest(), "big")


def plans(drawing: Drawing, sources: Sequence[int], lengths: Sequence[int]) -> list[Plan]:
    """Draw the batches of every size and order from texts in the order they were given in.

    `sources` are their places in the corpus, which chance goes by, `lengths` their tokens. What
    does not fill a batch is left out, by chance where the order is. Batches of like length come
    in an order by chance, as a training loop takes them. A size of more texts than there are is
    left out.
    """
    shuffles = [_shuffled(sources, drawing.seed, draw + 1) for draw in range(drawing.draws)]
    drawn = []
    for size in _sizes(drawing, len(sources)):
        whole = len(sources) // size * size
        random = [shuffle[:whole].reshape(-1, size) for shuffle in shuffles]
        alike = [
            _by_length(texts, np.asarray(lengths), np.asarray(sources), (drawing.seed, 0, size, draw))
            for draw, texts in enumerate(random)
        ]
        given = np.arange(whole).reshape(-1, size)
        drawn += [Plan(size, "random", np.concatenate(random)), Plan(size, "length", np.concatenate(alike))]
        drawn.append(Plan(size, "given", given))
    return drawn


def _sizes(drawing: Drawing, texts: int) -> list[int]:
    if drawing.sizes:
        return sorted({size for size in drawing.sizes if size <= texts})
    powers = [2**power for power in range(1, _LARGEST.bit_length())]
    most = max(2, texts // _LEAST_BATCHES)
    return [size for size in powers if size <= min(most, texts)]


def _shuffled(sources: Sequence[int], *keys: int) -> _Indices:
    """Return 0, 1, ... len(sources) - 1 in an order by chance."""
    order = sorted(range(len(sources)), key=lambda i: (chance(*keys, sources[i]), i))
    return np.asarray(order, dtype=np.int64)


def _by_length(texts: _Indices, lengths: _Indices, sources: _Indices, keys: tuple[int, ...]) -> _Indices:
    """Put the texts of shuffled batches (batches, size) into batches of like length; ties stay shuffled."""
    size, flat = texts.shape[1], texts.reshape(-1)
    batches = flat[np.argsort(lengths[flat], kind="stable")].reshape(-1, size)
    first: list[int] = sources[batches[:, 0]].tolist()
    return batches[_shuffled(first, *keys)]
