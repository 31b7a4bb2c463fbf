"""The article's claims on LayerNorm and BatchNorm, with the rule that decides each.

A claim is decided by one number of the user's model and texts: it holds when the number's whole 95 %
confidence interval is on the claim's side of the threshold, fails when it is on the other, and is
undecided when the threshold is within. No claim is decided without an interval.
"""

import math
from dataclasses import dataclass
from typing import Literal

from normscope.results.why import Interval

HOLDS, FAILS, UNDECIDED, UNTESTABLE = "holds", "fails", "undecided", "not testable here"


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, the `rule` that decides it in words, and the same as a number's side.

    `more` is the command that shows more, with {model} for the model; a `side` of None says that
    one language model cannot decide it.
    """

    id: str
    says: str
    rule: str
    more: str
    threshold: float = math.nan
    side: Literal["above", "below"] | None = None

    def verdict(self, number: Interval) -> str:
        """Say whether the claim holds, by where the number's interval lies."""
        if self.side is None or math.isnan(number.value):
            return UNTESTABLE
        if math.isnan(number.low) or number.low <= self.threshold <= number.high:
            return UNDECIDED
        return HOLDS if (number.low > self.threshold) == (self.side == "above") else FAILS


CLAIMS = (
    Claim(
        "1a",
        "Texts differ in length, so the statistics of late positions rest on few texts.",
        "holds when more than a quarter of the positions are reached by fewer than half of the texts",
        "normscope batches {model}",
        0.25,
        "above",
    ),
    Claim(
        "1b",
        "Sorting texts of like length into one batch eases that, so it is not the core reason.",
        "holds when BatchNorm's batch means are less noisy in batches of like length than in random ones",
        "normscope batches {model} --sizes 8",
        1.0,
        "below",
    ),
    Claim(
        "2",
        "BatchNorm takes the words at one position for one feature, which they are not.",
        "holds when the position explains less than a tenth of the variance, special tokens left out",
        "normscope inspect {model} --special-tokens exclude",
        0.1,
        "below",
    ),
    Claim(
        "3",
        "LayerNorm scales one text by itself: the words of a text have something in common.",
        "holds when the text explains more of the variance than the position does",
        "normscope inspect {model} --special-tokens exclude --json",
        0.0,
        "above",
    ),
    Claim(
        "4",
        "A text's meaning is a weighted sum of its word vectors, so scaling inside the text keeps it.",
        "holds when scaling within the text keeps the texts' likenesses better than BatchNorm does",
        "normscope swap {model}",
        0.0,
        "above",
    ),
    Claim(
        "5",
        "BatchNorm works in CNNs: a channel has one meaning, while word vectors are learned parameters.",
        "needs a CNN beside this model: normscope.watch measures one in Python",
        "normscope batches {model}",
    ),
    Claim(
        "6",
        "Batch statistics of text fluctuate strongly (papers: far more than those of images).",
        "holds when a batch's means are more than twice as far off as those of as many independent tokens; "
        "that images do better takes a second model to show",
        "normscope batches {model} --momentum 0.1",
        2.0,
        "above",
    ),
)
