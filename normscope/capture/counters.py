"""Counters of a watcher: forwards, samples, tokens, padding and time."""

import math
import time

from normscope.results.common import RunInfo
from normscope.statistics.alignment import TokenMask


class Tally:
    """What a watcher has been shown: forwards, samples, tokens, and the time they took."""

    def __init__(self) -> None:
        self.batches = self.samples = self.tokens = self.real = self.slots = self.positions = 0
        self.unknown = 0
        """How many tokens are the tokenizer's unknown one; counted by who has the tokenizer."""
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._since

    def add(self, mask: TokenMask | None) -> None:
        """Count one forward."""
        self.batches += 1
        if mask is not None:
            real, positions = mask.current(), mask.positions()
            # A sample is counted where it begins: steps of a generation go on with it.
            self.samples += int(((positions == 0) & real).sum())
            self.slots += real.numel()
            self.real += int(real.sum())
            self.tokens += int(mask.valid.sum())
            last = positions[mask.valid].max() if mask.valid.any() else -1
            self.positions = max(self.positions, int(last) + 1)

    def run_info(self) -> RunInfo:
        """Return it as a report's account of a run whose batches the user made."""
        return RunInfo(
            texts=self.samples,
            tokens=self.tokens,
            skipped_texts=0,
            truncated_texts=0,
            positions=self.positions,
            max_length=None,
            special_tokens=None,
            batch_size=None,
            batches=self.batches,
            order=None,
            padding_share=self.padding_share(),
            seconds=self.seconds,
        )

    def padding_share(self) -> float:
        """Return padding over all token slots, NaN without any."""
        return 1 - self.real / self.slots if self.slots else math.nan
