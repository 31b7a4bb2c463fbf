"""Runs a batch that memory does not hold in 2, 4, ... parts, down to single texts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from normscope.data.batch import Batch
from normscope.errors import OutOfMemoryError
from normscope.escaping import counted

T = TypeVar("T")
_NOT_HELD = "memory did not hold a batch"


class BatchSplitter:
    """Runs batches in parts where memory does not hold them whole.

    `number` is the number of parts for the next batch. `notes` says once that a batch was split, with
    `outcome` as what follows from that.
    """

    def __init__(self, device: torch.device, outcome: str) -> None:
        self.notes: list[str] = []
        self.number = 1
        self._device, self._outcome = device, outcome

    def work(
        self,
        batch: Batch,
        work: Callable[[list[Batch]], T],
        error: type[Exception] = OutOfMemoryError,
        undo: Callable[[], None] = lambda: None,
    ) -> T:
        """Return the result of `work` on a batch's parts.

        If it raises `error`, it is undone and repeated with twice as many parts, up to one for each text.
        """
        while True:
            parts = cut(batch, self.number)
            try:
                return work(parts)
            except error:
                if len(parts) == len(batch.sources):
                    raise
            # After the `except`, because the error keeps the tensors of the failed forward alive.
            undo()
            self.make_room(batch)
            self.number = 2 * len(parts)

    def make_room(self, batch: Batch) -> None:
        """Note that memory did not hold a batch, and release the memory that a GPU's allocator caches."""
        if not self.notes:
            texts, tokens = batch.mask.shape
            size = f"{counted(texts, 'text')} of {counted(tokens, 'token')}"
            self.notes.append(f"{_NOT_HELD} of {size}: {self._outcome}; no number depends on that")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def hear(self, warnings: Sequence[str]) -> None:
        """Note the first of another run's warnings that is about memory, unless there is a note already."""
        if not self.notes:
            self.notes += [warning for warning in warnings if warning.startswith(_NOT_HELD)][:1]


def cut(batch: Batch, number: int) -> list[Batch]:
    """Return a batch in `number` parts of about as many texts, in order; no part is empty."""
    texts = len(batch.sources)
    number = min(number, texts)
    if number == 1:
        return [batch]
    return [batch.part(slice(texts * i // number, texts * (i + 1) // number)) for i in range(number)]
