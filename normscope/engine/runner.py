"""Runs one batch after the other; a batch that does not fit in memory runs in halves."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normscope.capture.state import WatcherState
from normscope.capture.text_sample import Kept
from normscope.capture.watcher import Watcher
from normscope.data.batching import Batch, Batches, Batching
from normscope.engine.batch_splitting import cut, not_held, release
from normscope.engine.forward import Forward, shifted
from normscope.errors import CountingError, OutOfMemoryError

# A GPU whose memory was never fuller than this holds batches of twice the size.
_ROOM = 0.4


class Runner:
    """Runs batches of texts under a watcher; `notes` tell of what memory did not hold."""

    def __init__(self, watcher: Watcher, forward: Forward, batching: Batching, kept: Kept | None) -> None:
        self.notes: list[str] = []
        watcher.guest = False
        self._watcher, self._forward, self._batching, self._kept = watcher, forward, batching, kept
        self._largest = self._longest = 0
        self._countable = math.inf

    def run(self, batch: Batch, batches: Batches) -> None:
        """Run one batch of `batches`, and tell it what size of batches memory holds."""
        failed, before = bool(self.notes), self._before(batch)
        if self._kept is not None:
            self._kept.begin(batch)
        none = [0] * len(self._watcher.counted_calls())
        largest = self._whole(batch, none, before)
        self._watcher.skip_calls(none)
        self._watcher.tally.unknown += batches.unknown_in(batch)
        if largest < batch.mask.numel():
            batches.shrink(len(batch.sources), batch.mask.numel())
        elif not failed and batches.tokens is not None and fullness(self._forward.device) < _ROOM:
            batches.grow()

    def _before(self, batch: Batch) -> WatcherState | None:
        """Return what was measured before a batch that is larger, or longer, than all others.

        Where memory does not suffice to count one, it is such a one.
        """
        slots, longest = batch.mask.numel(), batch.mask.shape[1]
        more = slots > self._largest or longest > self._longest
        self._largest, self._longest = max(self._largest, slots), max(self._longest, longest)
        room = copies_fit(self._forward.device) or not self._watcher.tally.batches
        return WatcherState.of(self._watcher, copy=True) if more and room else None

    def _whole(self, batch: Batch, none: Sequence[int], before: WatcherState | None) -> int:
        """Run a batch to its end; return the most slots that were held.

        A layer that could not count it may have done so in part: all that was counted of it is taken
        back, and it runs in smaller parts. CountingError where nothing can be taken back, or be smaller.
        """
        failed, parts = False, self._countable_parts(batch)
        while True:
            try:
                largest = max(self._run(part, none) for part in parts)
                # What was counted will be again, even where a later failure could not be taken back.
                self._countable = largest if failed else self._countable
                return largest
            except CountingError:
                if before is None or len(parts) == len(batch.sources):
                    raise
            before.give(self._watcher, copy=True)
            if self._kept is not None:
                self._kept.take_back(batch.sources)
            self._make_room(batch)
            failed, parts = True, cut(batch, 2 * len(parts))

    def _countable_parts(self, batch: Batch) -> list[Batch]:
        """Cut a batch into parts no larger than those that could be counted where larger ones could not."""
        parts = [batch]
        while max(part.mask.numel() for part in parts) > self._countable and len(parts) < len(batch.sources):
            parts = cut(batch, 2 * len(parts))
        return parts

    def _run(self, batch: Batch, counted: Sequence[int]) -> int:
        """Run a batch of which each layer has counted so many calls; return the most slots that were held.

        A forward that fails has been counted by the layers it came to, and by no other: so they pass
        over the same calls when its halves are run.
        """
        if self._kept is not None:
            self._kept.place(batch.sources)
        self._watcher.mask = batch.valid
        self._watcher.decoder_mask = decoder_valid(batch, self._batching)
        self._watcher.skip_calls(counted)
        if self._held(batch):
            return batch.mask.numel()
        counted = self._watcher.counted_calls()
        self._make_room(batch)
        return max(self._run(half, counted) for half in cut(batch, 2))

    def _held(self, batch: Batch) -> bool:
        """Run a batch; False where memory did not hold it. A single text that is too much is an error."""
        try:
            self._forward(batch.inputs)
        except OutOfMemoryError:
            if len(batch.sources) == 1:
                raise
            return False  # Outside of here, where the error would keep what the forward has made.
        return True

    def _make_room(self, batch: Batch) -> None:
        if not self.notes:
            self.notes.append(not_held(batch, "it was run in parts, and later ones are smaller"))
        release(self._forward.device)


def copies_fit(device: torch.device) -> bool:
    """Tell whether tables may be copied: a CPU's copies would be in the very memory that may not suffice."""
    return device.type != "cpu"


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
