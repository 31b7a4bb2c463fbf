"""Tables of batch composition: padding, and the number of texts at each position."""

import math
from collections.abc import Callable, Iterator

from normscope.escaping import grouped
from normscope.render.axis_downsampling import spaced_rows
from normscope.render.grid import Column, Grid
from normscope.render.numbers import UNKNOWN, align, aligned, percent, short
from normscope.results.batches import BatchFilling, BatchReport
from normscope.results.glossary.lookup import note

ORDERS = {"random": "random", "length": "by length", "given": "as given"}
_MAX_USUAL_SIZE = 32
_FEW = "under 30: positions that fewer than 30 texts reach"


def fillings(report: BatchReport, top: int) -> list[Grid]:
    """Return the tables of the batches' composition: by batch size, and by position."""
    return [_by_size(report), _by_position(report, top)]


def _by_size(report: BatchReport) -> Grid:
    sizes = batch_sizes(report)

    def pair(head: str, write: Callable[[BatchFilling], str], rank: int, key: str = "") -> Iterator[Column]:
        for order in ("random", "length"):
            cells = align(write(filling_of(report, size, order)) for size in sizes)
            yield Column(head, ORDERS[order], cells, rank=rank, key=key)

    columns = [
        Column("texts", "a batch", align(grouped(size) for size in sizes)),
        *pair("padding", lambda batch: percent(batch.padding_share), 0),
        *pair("late texts", lambda batch: _count(batch.late_samples), 0),
        *pair("late error", lambda batch: percent(batch.variance_error), 1),
        *pair("under 30", lambda batch: percent(batch.positions_short), 3, _FEW),
        *pair("tokens", lambda batch: short(batch.tokens.mean), 4, "tokens: average of a batch"),
    ]
    return Grid("What batches hold", columns, [note("late_samples"), note("variance_error", "late error")])


def _by_position(report: BatchReport, top: int) -> Grid:
    size = usual_size(report)
    rows = spaced_rows(len(report.kept.positions), top)
    counts = {
        ORDERS[order]: filling_of(report, size, order).positions[rows] for order in ("random", "length")
    }
    # The standard error of a variance from n numbers is sqrt(2 / (n - 1)) times it.
    errors = {
        order: [math.sqrt(2 / (n - 1)) if n > 1 else math.nan for n in texts]
        for order, texts in counts.items()
    }
    columns = [
        Column("position", "", align(str(row) for row in rows)),
        Column("texts", "in all", align(_count(count) for count in report.kept.positions[rows])),
        *(Column("a batch", order, aligned(texts)) for order, texts in counts.items()),
        *(Column("error", order, align(map(percent, each)), rank=1) for order, each in errors.items()),
    ]
    notes = [
        note("positions"),
        "error: standard error of a variance from so many texts, relative to it.",
    ]
    return Grid(f"By position, in batches of {grouped(size)}", columns, notes)


def _count(texts: float) -> str:
    return UNKNOWN if math.isnan(texts) else f"{texts:,g}"


def filling_of(report: BatchReport, size: int, order: str) -> BatchFilling:
    """Return the composition of batches of one size and order."""
    (filling,) = (b for b in report.batches if (b.batch_size, b.order) == (size, order))
    return filling


def usual_size(report: BatchReport) -> int:
    """Return the size of the batches whose positions are shown."""
    return max((s for s in batch_sizes(report) if s <= _MAX_USUAL_SIZE), default=batch_sizes(report)[0])


def batch_sizes(report: BatchReport) -> list[int]:
    """Return the batch sizes that were drawn."""
    return sorted({batch.batch_size for batch in report.batches})
