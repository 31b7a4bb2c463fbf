"""Splits texts in two: one part for calibration, one held out for evaluation."""

from collections.abc import Iterable
from dataclasses import dataclass

from normscope.data.repeated_texts import Unique
from normscope.errors import TextError
from normscope.escaping import counted


@dataclass(frozen=True)
class SplitTexts:
    """Texts for calibration and held-out texts, without a text in both.

    `repeated` texts were not held out because the calibration contains them; `skipped` were blank.
    """

    calibration: list[str]
    held_out: list[str]
    skipped: int
    repeated: int


def split_texts(
    texts: Iterable[str], calibration: Iterable[str] | None, limit: int | None, *, unique: bool = False
) -> SplitTexts:
    """Hold out every second text, or all texts if there are others for the calibration.

    `limit` bounds the texts and the calibration, before they are split; `unique` leaves repeats out of both.
    Raises TextError when no text is left to calibrate on or to hold out.
    """
    if unique:
        texts, calibration = Unique(texts), None if calibration is None else Unique(calibration)
    read, skipped = _without_blank(texts, limit)
    if calibration is None:
        calibrating, others = read[::2], read[1::2]
    else:
        (calibrating, _), others = _without_blank(calibration, limit), read
    excluded = set(calibrating)
    held_out = [text for text in others if text not in excluded]
    if not calibrating or not held_out:
        ours, theirs = counted(len(calibrating), "text"), counted(len(held_out), "other")
        raise TextError(
            f"{ours} to calibrate on and {theirs} to hold out; "
            "expected at least one of each; give more texts, or --calibration with others"
        )
    return SplitTexts(calibrating, held_out, skipped, len(others) - len(held_out))


def _without_blank(texts: Iterable[str], limit: int | None) -> tuple[list[str], int]:
    """Read up to `limit` texts that are not blank; also return the number of blank ones among them."""
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
