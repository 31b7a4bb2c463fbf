"""Runs one batch after the other; a batch that does not fit in memory runs in parts."""

import math
from collections.abc import Sequence

import torch

from normscope.capture.recorder import Recorder
from normscope.capture.state import RecorderState
from normscope.capture.text_sample import TextSample
from normscope.data.batch import Batch
from normscope.engine.batch_splitting import BatchSplitter, cut
from normscope.engine.forward import Forward
from normscope.errors import CountingError, OutOfMemoryError

# A GPU has room for larger batches while at most this share of its memory was ever in use.
_ROOM = 0.4


class Runner:
    """Runs batches of texts under a recorder; `notes` says whether memory did not hold one."""

    def __init__(self, recorder: Recorder, forward: Forward, sample: TextSample | None) -> None:
        self._recorder, self._forward, self._sample = recorder, forward, sample
        self._device = forward.device
        self._splitter = BatchSplitter(forward.device, "it was run in parts, and later ones are smaller")
        self.notes = self._splitter.notes
        self._largest = self._longest = 0
        self._countable = math.inf

    def run(self, batch: Batch) -> int:
        """Run one batch, in parts if memory is short; return the slots of the largest part that ran."""
        snapshot = self._snapshot(batch)
        if self._sample is not None:
            self._sample.begin(batch)
        return self._run_countable(batch, snapshot)

    def has_room(self) -> bool:
        """Tell whether memory held all batches so far, and much of a GPU's memory was never in use."""
        return not self.notes and fullness(self._device) < _ROOM

    def _snapshot(self, batch: Batch) -> RecorderState | None:
        """Return a copy of the measurements if this batch has more slots, or longer texts, than all before.

        Only such a batch can need more memory for counting than was there so far.
        """
        slots, longest = batch.mask.numel(), batch.mask.shape[1]
        larger = slots > self._largest or longest > self._longest
        self._largest, self._longest = max(self._largest, slots), max(self._longest, longest)
        affordable = copies_fit(self._device) or not self._recorder.tally.batches
        return RecorderState.of(self._recorder, copy=True) if larger and affordable else None

    def _run_countable(self, batch: Batch, snapshot: RecorderState | None) -> int:
        """Run a batch in parts that the layers can count; return the maximum of slots that ran at once.

        A layer that lacks memory to count a batch may have counted a part of it. The snapshot undoes that,
        and the batch runs in smaller parts. CountingError without a snapshot, or for a single text.
        """
        number = self._splitter.number = self._countable_parts(batch)

        def run(parts: list[Batch]) -> int:
            return max(self._run(part) for part in parts)

        if snapshot is None:
            return run(cut(batch, number))

        def undo() -> None:
            snapshot.give(self._recorder, copy=True)
            if self._sample is not None:
                self._sample.take_back(batch.sources)

        largest = self._splitter.work(batch, run, CountingError, undo)
        if self._splitter.number > number:
            # Later batches are cut to this size first, because a later failure may have no snapshot.
            self._countable = largest
        return largest

    def _countable_parts(self, batch: Batch) -> int:
        """Return the number of parts none of which is larger than those that could be counted."""
        number = 1
        while number < len(batch.sources) and self._countable < max(
            part.mask.numel() for part in cut(batch, number)
        ):
            number *= 2
        return number

    def _run(self, batch: Batch, counted: Sequence[int] = ()) -> int:
        """Run a batch, in halves if memory runs out; return the maximum of slots that ran at once.

        `counted` are the calls of each layer that have counted this batch already: a forward that fails
        was counted by the layers before the failure, so these skip the same calls in both halves.
        """
        if self._sample is not None:
            self._sample.select(batch.sources)
        try:
            with self._recorder.batch(batch.valid, batch.decoder_valid, counted):
                self._forward(batch.inputs)
            return batch.mask.numel()
        except OutOfMemoryError:
            if len(batch.sources) == 1:
                raise
        # After the `except`, because the error keeps the tensors of the failed forward alive.
        counted = self._recorder.counted_calls()
        self._splitter.make_room(batch)
        return max(self._run(half, counted) for half in cut(batch, 2))


def copies_fit(device: torch.device) -> bool:
    """Tell whether tables may be copied: on a CPU the copies need the same memory that may run out."""
    return device.type != "cpu"


def fullness(device: torch.device) -> float:
    """Return the maximum share of a GPU's memory that was in use so far; 1 on other devices."""
    if device.type != "cuda":
        return 1.0
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) / total
