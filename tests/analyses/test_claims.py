"""Verdicts: by where a number's whole interval lies."""

import math

import pytest

from normscope.analyses.why.claims import CLAIMS, Claim
from normscope.results.why import Interval

ABOVE = Claim("0", "says", "rule", "more", 0.5, "above")
BELOW = Claim("0", "says", "rule", "more", 0.5, "below")
NONE = Claim("0", "says", "rule", "more")


@pytest.mark.parametrize(
    ("number", "above", "below"),
    [
        (Interval(0.7, 0.6, 0.8), "holds", "fails"),
        (Interval(0.3, 0.2, 0.4), "fails", "holds"),
        (Interval(0.6, 0.4, 0.8), "undecided", "undecided"),
        (Interval(0.6, 0.5, 0.8), "undecided", "undecided"),
        (Interval(0.9), "undecided", "undecided"),
        (Interval(math.nan), "not testable here", "not testable here"),
    ],
)
def test_a_verdict_needs_the_whole_interval(number: Interval, above: str, below: str) -> None:
    assert ABOVE.verdict(number) == above
    assert BELOW.verdict(number) == below
    assert NONE.verdict(number) == "not testable here"


def test_every_claim_of_the_article_is_there_once() -> None:
    assert [claim.id for claim in CLAIMS] == ["1a", "1b", "2", "3", "4", "5", "6"]
    for claim in CLAIMS:
        assert claim.says.endswith(".")
        assert (claim.side is None) == math.isnan(claim.threshold)
        assert claim.more.startswith("normscope ")
        assert "{model}" in claim.more
