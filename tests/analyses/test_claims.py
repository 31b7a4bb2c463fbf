"""Verdicts: by how many whole intervals lie on which side."""

import math

import pytest

from normscope.analyses.why.claims import CLAIMS, Claim, sides
from normscope.results.why import Interval

ABOVE = Claim("0", "says", "source", "quantity", "null", "rule", 0.5, "above", "more")
BELOW = Claim("0", "says", "source", "quantity", "null", "rule", 0.5, "below", "more")
OVER, UNDER, ACROSS, NONE = (
    Interval(0.7, 0.6, 0.8),
    Interval(0.3, 0.2, 0.4),
    Interval(0.6, 0.4, 0.8),
    Interval(0.9),
)


@pytest.mark.parametrize(
    ("numbers", "above", "below"),
    [
        ([OVER], "holds", "fails"),
        ([UNDER], "fails", "holds"),
        ([ACROSS], "undecided", "undecided"),
        ([Interval(0.6, 0.5, 0.8)], "undecided", "undecided"),
        ([NONE], "undecided", "undecided"),
        ([], "not testable here", "not testable here"),
        ([OVER, OVER, UNDER], "holds", "fails"),
        ([OVER, OVER, UNDER, UNDER], "undecided", "undecided"),
        ([OVER, ACROSS, NONE], "undecided", "undecided"),
    ],
)
def test_more_than_half_of_the_intervals_decide(numbers: list[Interval], above: str, below: str) -> None:
    counts = sides(numbers, 0.5)
    assert ABOVE.verdict(*counts, len(numbers)) == above
    assert BELOW.verdict(*counts, len(numbers)) == below


def test_every_claim_is_there_once_with_all_that_a_reader_asks() -> None:
    assert [claim.id for claim in CLAIMS] == ["1a", "1b", "1c", "2", "3", "4", "5", "6"]
    for claim in CLAIMS:
        assert claim.says.endswith(".")
        assert claim.rule.startswith("holds when it is ")
        assert all((claim.source, claim.quantity, claim.null))
        assert math.isfinite(claim.threshold)
        assert claim.more.startswith("normscope ")
        assert "{model}" in claim.more
