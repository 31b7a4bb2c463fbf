"""Which words would BatchNorm put together, and which does LayerNorm?

Pairs of sentences as the article has them (these are ours, in its manner), word by word; then, on a
pretrained model and real prose, whether words at one position have more in common than words of one text.

Run: python examples/what_bn_pools.py [--quick] [--picture words.png]     (half a minute)
"""

from typing import Any

import altair as alt

import normscope
from _common import Row, chart, options, row, show, written
from _data import sentences

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
# Which words share one mean and one variance, for texts (N, T, D): normscope's name, and who does so.
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
    """Draw the words twice, in the colours of what BN takes together and of what LN does."""
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
    """Write the pairs as BatchNorm reads them: down the columns."""
    lines = []
    for language, pair in PAIRS.items():
        lines.append(f"{language}, what BN takes for one feature at each position:")
        for at in range(max(map(len, pair))):
            held = [
                f"{word} ({gloss})" if gloss else word for word, gloss in (t[at] for t in pair if at < len(t))
            ]
            lines.append(f"  {at}: {' | '.join(held)}")
        rows = [" ".join(gloss or word for word, gloss in text) for text in pair]
        lines.append(f"  LN over a text takes: {'; '.join(rows)}")
    return "\n".join(lines)


def sharers(pair: list[str], width: int) -> str:
    """Write how many means and variances each norm takes of a pair, and of how many numbers each."""
    lengths = [len(text.split()) for text in pair]
    words, longest = sum(lengths), max(lengths)
    pools = {"position": longest, "feature": width, "global": 1, "sequence": len(pair), "token": words}
    lines = [f"{'who':24} {'one mean of':26} {'means':>6} {'numbers in each':>16}"]
    for view, who, what in VIEWS:
        lines.append(f"{who:24} {what:26} {pools[view]:6} {words * width / pools[view]:16,.0f}")
    return "\n".join(lines)


def main() -> None:
    """Ask a pretrained model and real prose; print the answer, then the pairs."""
    args = options(__doc__, "what_bn_pools.png")
    texts = sentences(40 if args.quick else 500)
    report = normscope.why("demo", texts, batching=normscope.Batching(max_length=32 if args.quick else 64))
    found = {finding.id: finding for finding in report.claims}
    position, text = found["2"].evidence[0].number, found["3"].evidence[1].number
    answer = (
        f"Words at one position share {written(position, '{:.1%}')} of their variance, words of one text "
        f"{written(text, '{:.1%}')}:\nthe position is {'no' if position.high < 0.1 else 'indeed a'} feature "
        f"(claim 2 {found['2'].verdict}; claim 3 {found['3'].verdict}). "
        f"{report.model.id}, {report.kept_texts} sentences, 95% intervals."
    )
    rows: list[Row] = [row(found["2"], "{:.1%}"), row(found["3"], "{:.1%}"), row(found["4"])]
    pair = [" ".join(word for word, _ in text) for text in PAIRS["Chinese"]]
    numbers = [columns(), sharers(pair, 384)]
    for claim in ("2", "3", "4"):
        evidence = [f"  {each.name}: {written(each.number)}" for each in found[claim].evidence]
        numbers.append("\n".join([f"claim {claim}: {found[claim].claim}", *evidence]))
    show(args, answer, rows, "\n\n".join(numbers), picture())


main()
