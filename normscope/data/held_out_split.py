"""Splits texts in two: one part for calibration, one held out for evaluation."""

from collections.abc import Iterable
from dataclasses import dataclass

from normscope.data.repeated_texts import Unique
from normscope.errors import TextError
from normscope.escaping import counted


@dataclass(frozen=True)
class Parted:
    """Texts to calibrate on and texts held out, none in both; `repeated` would have been."""

    calibration: list[str]
    held_out: list[str]
    skipped: int
    repeated: int


def part(
    texts: Iterable[str], calibration: Iterable[str] | None, limit: int | None, *, unique: bool = False
) -> Parted:
    """Part texts: every other one is held out, from the second on, or all where there is a calibration.

    `limit` bounds both, before they are parted; `unique` leaves out of either what is in it already.
    TextError when nothing is left to hold out.
    """
    if unique:
        texts, calibration = Unique(texts), None if calibration is None else Unique(calibration)
    given, skipped = _words(texts, limit)
    if calibration is None:
        known, others = given[::2], given[1::2]
    else:
        (known, _), others = _words(calibration, limit), given
    among = set(known)
    held_out = [text for text in others if text not in among]
    if not known or not held_out:
        ours, theirs = counted(len(known), "text"), counted(len(held_out), "other")
        raise TextError(
            f"{ours} to calibrate on and {theirs} to hold out; "
            "expected at least one of each; give more texts, or --calibration with others"
        )
    return Parted(known, held_out, skipped, len(others) - len(held_out))


def _words(texts: Iterable[str], limit: int | None) -> tuple[list[str], int]:
    """Read up to `limit` texts that are not blank; also count the blank ones on the way."""
    read: list[str] = []
    skipped = 0
    for text in texts:
        if isinstance(text, str) and not text.strip():
            skipped += 1
            continue
        read.append(text)
        if len(read) == limit:
            break
    return read, skipped
