"""Splits a batch that does not fit in memory into 2, 4, ... parts, at most one a text."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from normscope.data.batching import Batch
from normscope.errors import OutOfMemoryError
from normscope.escaping import counted

T = TypeVar("T")
_NOT_HELD = "memory did not hold a batch"


class Parts:
    """Cuts batches into as many parts as memory asked for so far; `notes` say once that it did."""

    def __init__(self, device: torch.device) -> None:
        self.notes: list[str] = []
        self._device, self._number = device, 1

    def work(self, batch: Batch, work: Callable[[list[Batch]], T]) -> T:
        """Return what `work` makes of a batch's parts, or anew of more of them where memory is too little."""
        while True:
            parts = cut(batch, self._number)
            try:
                return work(parts)
            except OutOfMemoryError:
                if len(parts) == len(batch.sources):
                    raise
            # Outside of there, where the error would keep what the forward has made.
            self.hear([not_held(batch, "it and later ones were run in parts")])
            release(self._device)
            self._number = 2 * len(parts)

    def hear(self, warnings: Sequence[str]) -> None:
        """Note the first of these warnings that is about memory, unless one is noted."""
        if not self.notes:
            self.notes += [warning for warning in warnings if warning.startswith(_NOT_HELD)][:1]


def cut(batch: Batch, number: int) -> list[Batch]:
    """Return a batch in so many parts of about as many texts, in order; no part is empty."""
    texts = len(batch.sources)
    number = min(number, texts)
    if number == 1:
        return [batch]
    return [batch.part(slice(texts * i // number, texts * (i + 1) // number)) for i in range(number)]


def not_held(batch: Batch, done: str) -> str:
    """Say that memory did not hold a batch, and what was `done` about it."""
    texts, tokens = batch.mask.shape
    size = f"{counted(texts, 'text')} of {counted(tokens, 'token')}"
    return f"{_NOT_HELD} of {size}: {done}; no number depends on that"


def release(device: torch.device) -> None:
    """Give back what a GPU's memory keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
