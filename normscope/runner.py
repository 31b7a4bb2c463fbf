"""One batch after the other through the model; what memory does not hold is run in halves."""

from collections.abc import Sequence

import torch
from torch import Tensor

from normscope.batches import Batch, Batches, Batching
from normscope.errors import OutOfMemoryError
from normscope.forward import Forward, shifted
from normscope.kept import Kept
from normscope.parts import not_held, release
from normscope.watcher import Watcher

# A GPU whose memory was never fuller than this holds batches of twice the size.
ROOM = 0.4


class Runner:
    """Runs batches of texts under a watcher; `notes` tell of what memory did not hold."""

    def __init__(self, watcher: Watcher, forward: Forward, batching: Batching, kept: Kept | None) -> None:
        self.notes: list[str] = []
        self._watcher, self._forward, self._batching, self._kept = watcher, forward, batching, kept

    def run(self, batch: Batch, batches: Batches) -> None:
        """Run one batch of `batches`, and tell it what size of batches memory holds."""
        failed = bool(self.notes)
        if self._kept is not None:
            self._kept.begin(batch)
            slots = self._kept.slots
        else:
            slots = torch.empty(len(batch.sources))
        none = [0] * len(self._watcher.counted_calls())
        largest = self._run(batch, slots, none)
        self._watcher.skip_calls(none)
        if largest < batch.mask.numel():
            batches.shrink(len(batch.sources), batch.mask.numel())
        elif not failed and batches.tokens is not None and fullness(self._forward.device) < ROOM:
            batches.grow()

    def _run(self, batch: Batch, slots: Tensor, counted: Sequence[int]) -> int:
        """Run a batch of which each layer has counted so many calls; return the most slots that were held.

        A forward that fails has been counted by the layers it came to, and by no other: so they pass
        over the same calls when its halves are run.
        """
        if self._kept is not None:
            self._kept.slots = slots
        self._watcher.mask = batch.valid
        self._watcher.decoder_mask = decoder_valid(batch, self._batching)
        self._watcher.skip_calls(counted)
        if self._held(batch):
            return batch.mask.numel()
        release(self._forward.device)
        counted, half = self._watcher.counted_calls(), len(batch.sources) // 2
        parts = [slice(0, half), slice(half, None)]
        return max(self._run(batch.part(rows), slots[rows], counted) for rows in parts)

    def _held(self, batch: Batch) -> bool:
        """Run a batch; False where memory did not hold it. A single text that is too much is an error."""
        try:
            self._forward(batch.inputs)
        except OutOfMemoryError:
            if len(batch.sources) == 1:
                raise
            if not self.notes:
                done = "it was run in parts, and later ones are smaller"
                self.notes.append(not_held(batch, done))
            return False  # Outside of here, where the error would keep what the forward has made.
        return True


def fullness(device: torch.device) -> float:
    """Return how full a GPU's memory was at most, as a share; 1 for what is no CUDA device."""
    if device.type != "cuda":
        return 1.0
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) / total


def decoder_valid(batch: Batch, batching: Batching) -> Tensor:
    """Tell which tokens of the shifted text count: its start token is a special one."""
    first = int(batching.special_tokens == "include")
    return (shifted(batch.valid.int(), first) != 0) & batch.mask
