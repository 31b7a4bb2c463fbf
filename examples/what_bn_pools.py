"""The words that BatchNorm pools, and those that LayerNorm pools: do they have something in common?

Pairs of sentences as the article has them (these are ours, in its manner), word by word. Then claims 2, 3
and 4, on a pretrained model and real prose, each against its null, as in `normscope why`
(examples/methods.md). Last, a finding on claim 4: which half of BatchNorm changes the similarities of texts,
its scale or its centre? That is measured at each norm by itself.

Run: python examples/what_bn_pools.py [--quick] [--picture words.png]     (a minute)
"""

from typing import Any

import altair as alt

import normscope
from _common import Row, chart, counted_verdict, options, row, show, written
from _data import sentences
from _tokens import pretrained
from normscope.results.why import Finding, WhyReport

# A word, and what it means.
PAIRS = {
    "Chinese": [
        [("我", "I"), ("爱", "love"), ("中国", "China")],
        [("今天", "today"), ("天气", "weather"), ("真", "really"), ("不错", "nice")],
    ],
    "English": [
        [("I", ""), ("love", ""), ("old", ""), ("maps", "")],
        [("The", ""), ("weather", ""), ("is", ""), ("really", ""), ("nice", "")],
    ],
}
# Groups of numbers with one mean and one variance, for texts (N, T, D): the view, and its norm.
VIEWS = (
    ("position", "BN, channel = position", "a column, all features"),
    ("feature", "BN, channel = feature", "all words, one feature"),
    ("global", "BN, one channel", "all words, all features"),
    ("sequence", "LN over the whole text", "a row, all features"),
    ("token", "LN of a Transformer", "one word, all features"),
)


def grid() -> list[dict[str, Any]]:
    """Return every word with its place."""
    return [
        {"text": text + 1, "position": at, "word": word, "gloss": gloss, "pair": language}
        for language, pair in PAIRS.items()
        for text, words in enumerate(pair)
        for at, (word, gloss) in enumerate(words)
    ]


def picture() -> Any:
    """Draw the words twice: in one colour what BN pools, and in one colour what LN pools."""
    rows = []
    for language in PAIRS:
        words = [word for word in grid() if word["pair"] == language]
        charts = []
        for what, title in (("position", "BN per position: a column is one"), ("text", "LN: a row is one")):
            base = chart(words).encode(
                x=alt.X("position:O", title="position", axis=alt.Axis(labelAngle=0)),
                y=alt.Y("text:O", title="text"),
            )
            cells = base.mark_rect(stroke="white", strokeWidth=4).encode(
                color=alt.Color(f"{what}:N", legend=None, scale=alt.Scale(scheme="pastel1"))
            )
            named = base.mark_text(fontSize=14, dy=-5).encode(text="word:N")
            glossed = base.mark_text(fontSize=11, dy=13).encode(text="gloss:N")
            size = {"width": 320, "height": 110, "title": f"{language}. {title}"}
            charts.append((cells + named + glossed).properties(**size))
        rows.append(alt.hconcat(*charts).resolve_scale(color="independent"))
    return alt.vconcat(*rows)


def columns() -> str:
    """Write the pairs as BatchNorm reads them: column by column."""
    lines = []
    for language, pair in PAIRS.items():
        lines.append(f"{language}, what BN treats as one feature at each position:")
        for at in range(max(map(len, pair))):
            held = [
                f"{word} ({gloss})" if gloss else word for word, gloss in (t[at] for t in pair if at < len(t))
            ]
            lines.append(f"  {at}: {' | '.join(held)}")
        rows = [" ".join(gloss or word for word, gloss in text) for text in pair]
        lines.append(f"  LN over a text pools: {'; '.join(rows)}")
    return "\n".join(lines)


def sharers(pair: list[str], width: int) -> str:
    """Write how many means and variances each norm computes for a pair, and from how many numbers."""
    lengths = [len(text.split()) for text in pair]
    words, longest = sum(lengths), max(lengths)
    pools = {"position": longest, "feature": width, "global": 1, "sequence": len(pair), "token": words}
    lines = [f"{'norm':24} {'one mean over':26} {'means':>6} {'numbers in each':>16}"]
    for view, who, what in VIEWS:
        lines.append(f"{who:24} {what:26} {pools[view]:6} {words * width / pools[view]:16,.0f}")
    return "\n".join(lines)


def centring(report: WhyReport, finding: Finding) -> Row:
    """Return the row on BatchNorm's halves: a norm counts where the intervals of both lie apart."""
    scale, centre = (
        next(each for each in finding.evidence if each.name.endswith(f"BN's {half} alone"))
        for half in ("scale", "centre")
    )
    pairs = [(a.number, b.number) for a, b in zip(scale.layers, centre.layers, strict=True)]
    above, below = sum(a.low > b.high for a, b in pairs), sum(a.high < b.low for a, b in pairs)
    return Row(
        "4b (ours) BatchNorm's centre changes the similarities of texts more than its scale.",
        "correlation of the cosines of all pairs of texts with the norm's own: BatchNorm's scale alone, "
        "against its centre alone",
        "both alike; holds where the interval of the scale is above that of the centre",
        f"{report.kept_texts} texts",
        f"{written(scale.number)} against {written(centre.number)}",
        counted_verdict(above, below, len(pairs)),
    )


def main() -> None:
    """Ask a pretrained model and real prose; print the answer, then the pairs."""
    args = options(__doc__, "what_bn_pools.png")
    texts = sentences(40 if args.quick else 600)
    batching = normscope.Batching(max_length=32 if args.quick else 64)
    report = normscope.why(pretrained(reduced=args.quick), texts, batching=batching)
    found = {finding.id: finding for finding in report.claims}
    rows = [row(report, found[name], "{:.1%}") for name in ("2", "3")]
    rows += [row(report, found["4"]), centring(report, found["4"])]
    answer = (
        f"A text explains {rows[0].found} more of the variance of its words than a position does,\n"
        f"each minus shuffled words (claim 2 {rows[0].verdict}). Words of one text have\n{rows[1].found} "
        f"in common beyond shuffled words (claim 3 {rows[1].verdict}).\nSimilarities of texts, kept by "
        f"BatchNorm's scale alone against its centre alone:\n{rows[3].found}. "
        f"{report.model.id}, {report.kept_texts} sentences, 95% intervals."
    )
    pair = [" ".join(word for word, _ in text) for text in PAIRS["Chinese"]]
    numbers = [columns(), sharers(pair, 384)]
    for claim in ("2", "3", "4"):
        evidence = [f"  {each.name}: {written(each.number)}" for each in found[claim].evidence]
        numbers.append("\n".join([f"claim {claim}: {found[claim].claim}", *evidence]))
    numbers.append("BatchNorm's centre takes away what all texts share. Cosines are then about what is left.")
    show(args, answer, rows, "\n\n".join(numbers), picture())


main()
