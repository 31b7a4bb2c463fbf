"""Batch composition: padding, tokens, and the number of texts at each position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.results.common import Counts, Floats

FEW = 30
_LATE = 0.75
PART = 1 << 24

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class Filling:
    """What batches of one size and order hold.

    `padding_share` is the share of padding in all token slots; each batch is padded to its longest text.
    `tokens` (batches,) is the number of tokens that count in each batch. `positions` (T,) is the mean
    number of texts with a token that counts at each position, over the batches that have such a text.

    The other three numbers are taken over the positions of all batches together, where at least one text
    has a token that counts. `positions_short` is the share of them that fewer than 30 texts reach.
    `late_samples` is the median number of texts in the last quarter of each batch's positions.
    `variance_error` is sqrt(2 / (late_samples - 1)), the relative standard error of the variance of a
    normal variable with that sample size; NaN if it is 1.
    """

    padding_share: float
    tokens: Floats
    positions: Floats
    positions_short: float
    late_samples: float
    variance_error: float


def filling(counted: Sequence[Flags], texts: Counts) -> Filling:
    """Look into batches: `counted` says which tokens of each text count, `texts` is (batches, size)."""
    lengths = np.array([len(flags) for flags in counted])
    longest = lengths[texts].max(1)
    reached = _reached(counted, lengths, texts)  # (batches, T)
    has = reached > 0
    there = np.arange(reached.shape[1])
    late = has & (there >= _LATE * (1 + (has * there).max(1, keepdims=True)))
    samples = float(np.median(reached[late])) if late.any() else np.nan
    with np.errstate(invalid="ignore"):
        positions = reached.sum(0) / np.where(has.any(0), has.sum(0), np.nan)
    return Filling(
        padding_share=1 - float(lengths[texts].sum() / (longest.sum() * texts.shape[1])),
        tokens=reached.sum(1).astype(np.float64),
        positions=positions,
        positions_short=float((reached[has] < FEW).mean()) if has.any() else np.nan,
        late_samples=samples,
        variance_error=float(np.sqrt(2 / (samples - 1))) if samples > 1 else np.nan,
    )


def _reached(counted: Sequence[Flags], lengths: Counts, texts: Counts) -> Counts:
    """Return the number of texts of each batch with a token that counts at each position, (batches, T)."""
    table = np.zeros((len(counted), int(lengths.max())), dtype=bool)
    for row, flags in zip(table, counted, strict=True):
        row[: len(flags)] = flags
    step = max(1, PART // (texts.shape[1] * table.shape[1]))
    parts = [texts[start : start + step] for start in range(0, len(texts), step)]
    return np.concatenate([table[part].sum(1, dtype=np.int64) for part in parts])
