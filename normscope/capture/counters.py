"""Counters of a recorder: forwards, samples, tokens, padding and time."""

import math
import time
from collections.abc import Mapping
from dataclasses import fields

from normscope.results.common import LeftOut, RunInfo, TokenSelection
from normscope.statistics.alignment import TokenMask


class Tally:
    """Counts of the forwards, samples and tokens of a recorder, and their time in seconds.

    `selection` has the rules of the watcher that leave tokens out, None if there are none.
    """

    def __init__(self, selection: TokenSelection | None = None) -> None:
        self._selection = selection
        self.batches = self.samples = self.tokens = self.real = self.slots = self.positions = 0
        self.unknown = 0
        """The number of unknown tokens; counted by the caller, which has the tokenizer."""
        self.left_out = dict.fromkeys((field.name for field in fields(LeftOut)), 0)
        """The number of real tokens that each rule left out."""
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._since

    def add(self, mask: TokenMask | None) -> None:
        """Count one forward; `mask` is None where it has no tokens."""
        self.batches += 1
        if mask is not None:
            real, positions = mask.current(), mask.positions()
            # A sample is counted at its first token: later steps of a generation continue the same sample.
            self.samples += int(((positions == 0) & real).sum())
            self.slots += real.numel()
            self.real += int(real.sum())
            self.tokens += int(mask.valid.sum())
            last = positions[mask.valid].max() if mask.valid.any() else -1
            self.positions = max(self.positions, int(last) + 1)
            self.leave_out({name: int(tokens.sum()) for name, tokens in mask.left_out.items()})

    def leave_out(self, counts: Mapping[str, int]) -> None:
        """Count the tokens that rules left out."""
        for rule, count in counts.items():
            self.left_out[rule] += count

    def run_info(self) -> RunInfo:
        """Return the counts as the description of a run whose batches the user made."""
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
            selection=self._selection,
            left_out=LeftOut(**self.left_out) if self._selection or any(self.left_out.values()) else None,
        )

    def padding_share(self) -> float:
        """Return the share of padding in all token slots, NaN without slots."""
        return 1 - self.real / self.slots if self.slots else math.nan
