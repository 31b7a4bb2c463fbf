"""The claims on LayerNorm and BatchNorm, with the quantity, the null and the rule of each.

A claim is decided by one number of the user's model and texts. Where layers have a number each, the claim
holds when the 95 % intervals of more than half of them lie on the claim's side of the threshold, and fails
when those of more than half lie on the other side. If each interval misses its null with a chance of 2.5 %
on one side, this happens to more than half of the layers with a chance of 5 % at most, however much the
layers depend on each other (Markov's inequality). A number without layers counts as one layer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normscope.results.why import Interval

HOLDS, FAILS, UNDECIDED, UNTESTABLE = "holds", "fails", "undecided", "not testable here"

ARTICLE = "NLP任务中,layer-norm比BatchNorm好在哪里"
_ARTICLE = f"the article ({ARTICLE})"


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, whose it is, the `quantity` of its words, its `null`, and its `rule`.

    The claim holds on its `side` of the threshold. `more` is the command that shows more, with {model} for
    the model.
    """

    id: str
    says: str
    source: str
    quantity: str
    null: str
    rule: str
    threshold: float
    side: Literal["above", "below"]
    more: str

    def verdict(self, above: int, below: int, of: int) -> str:
        """Return the verdict by how many `of` all intervals lie `above` and `below` the threshold."""
        if not of:
            return UNTESTABLE
        holding, failing = (above, below) if self.side == "above" else (below, above)
        if 2 * holding > of:
            return HOLDS
        return FAILS if 2 * failing > of else UNDECIDED


def sides(numbers: Sequence[Interval], threshold: float) -> tuple[int, int]:
    """Count the numbers whose whole interval lies above the threshold, and below it."""
    known = [number for number in numbers if not math.isnan(number.low)]
    return sum(n.low > threshold for n in known), sum(n.high < threshold for n in known)


CLAIMS = (
    Claim(
        "1a",
        "Texts differ in length, so statistics of late positions rest on few texts.",
        _ARTICLE,
        "share of a batch's texts that reach its late positions, the last quarter of them",
        "texts of one length: all of them do",
        "holds when it is under half: then most of what stands at a late position is padding",
        0.5,
        "below",
        "normscope batches {model}",
    ),
    Claim(
        "1b",
        "Batches of texts of similar length reduce that problem.",
        _ARTICLE,
        "noise of BatchNorm per position at late positions, batches by length over random ones",
        "batches by length are as noisy as random ones: 1",
        "holds when it is under 1",
        1.0,
        "below",
        "normscope batches {model}",
    ),
    Claim(
        "1c",
        "Batches of texts of similar length make BatchNorm's statistics per feature noisier.",
        "normscope",
        "noise of BatchNorm per feature, batches by length over random ones, each corrected for its numbers "
        "of tokens",
        "tokens drawn independently, lengths kept: 1",
        "holds when it is over 1",
        1.0,
        "above",
        "normscope batches {model} --special-tokens exclude",
    ),
    Claim(
        "2",
        "Words at one position have less in common than words of one text: a position is no feature.",
        _ARTICLE,
        "variance that the text explains minus what the position explains (epsilon squared), special tokens "
        "left out, each minus the same where the words are shuffled across texts and the model runs again",
        "words shuffled across texts: 0",
        "holds when it is over 0",
        0.0,
        "above",
        "normscope inspect {model} --special-tokens exclude",
    ),
    Claim(
        "3",
        "Words of one text have something in common.",
        _ARTICLE,
        "variance that the text explains (epsilon squared), special tokens left out, minus the same where "
        "the words are shuffled across texts and the model runs again",
        "words shuffled across texts: 0",
        "holds when it is over 0",
        0.0,
        "above",
        "normscope inspect {model} --special-tokens exclude --json",
    ),
    Claim(
        "4",
        "A scale of each text keeps more of what texts mean than BatchNorm's scale of each feature.",
        _ARTICLE,
        "correlation of the texts' similarities at the model's end that stays when one layer takes the "
        "text's scale, minus that when it takes BatchNorm's, minus the same with words shuffled",
        "texts of shuffled words, which mean nothing: 0",
        "holds when it is over 0",
        0.0,
        "above",
        "normscope swap {model} --kind scale-feature",
    ),
    Claim(
        "5",
        "BatchNorm suits images better: in batches of equally many samples, its statistics are noisier on "
        "text.",
        _ARTICLE,
        "noise of the batch mean per feature of text over that per channel of images, at equal samples",
        "both alike: 1",
        "holds when it is over 1",
        1.0,
        "above",
        "normscope batches {model} --special-tokens exclude",
    ),
    Claim(
        "6",
        "Its statistics are noisier on text even when equally many values are pooled.",
        "normscope, after PowerNorm (Shen et al., ICML 2020, arXiv 2003.07845)",
        "the same at equal pooled elements: tokens of text, pixels of images",
        "both alike: 1",
        "holds when it is over 1",
        1.0,
        "above",
        "normscope batches {model} --special-tokens exclude",
    ),
)
