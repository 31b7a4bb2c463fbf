"""Texts of different length, and padding: how noisy do they make BatchNorm's statistics, and why?

Claims 1a, 1b and 1c are decided as in `normscope why` (examples/methods.md). Then the cause of 1c, by
running the model again: with the tokens of all texts shuffled, and with positions that say nothing about
the length of a text. [CLS] and [SEP] run, and are left out of the numbers unless a line says otherwise.
Last, padding that is averaged in, as nn.BatchNorm1d does (github.com/pytorch/pytorch/issues/70529).

Run: python examples/variable_length.py [--quick] [--picture lengths.png]     (two minutes)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import torch
from torch import Tensor

import normscope
from _common import Row, chart, lines, options, row, show, verdict, written
from _data import sentences
from _tokens import Ratios, pretrained, ratios, run, shuffled, token_ids
from normscope.analyses.why.measures import SIZE, median
from normscope.data.batching import Batches
from normscope.models.loading import Loaded
from normscope.results.inspect import Report
from normscope.results.why import Interval
from normscope.statistics.jackknife import interval, quotient

LATE = (0, 8, 16, 24, 32, 48, 63)
SHUFFLED_BOTH = "tokens shuffled, positions at random"


def padding(demo: Loaded, texts: Sequence[str], length: int, order: str) -> tuple[Ratios, float]:
    """Return how far padding moves BatchNorm's means, over how far they move with other texts.

    Both are roots of the mean square over batches of SIZE texts, no text in two of them. A replicate leaves
    out one batch. The second result is the share of padding.
    """
    batching = normscope.Batching(SIZE, max_length=length, order=order)
    tokenizer: Any = demo.tokenizer
    pairs, filled = [], []
    for batch in Batches(texts, tokenizer, batching, max_length=None):
        pairs.append([statistics(demo, batch, padding=counts).layers for counts in (False, True)])
        filled.append(float(batch.mask.double().mean()))
    found = {}
    for name in pairs[0][0]:
        own: list[Any] = [known[name].feature for known, _ in pairs]
        wrong: list[Any] = [other[name].feature for _, other in pairs]
        centre = np.average([one.mean for one in own], axis=0, weights=[one.count for one in own])
        moved = [np.sum((b.mean - a.mean) ** 2) for a, b in zip(own, wrong, strict=True)]
        # Each text is drawn once: without this factor, batches would look too much like all texts.
        chance = [np.sum((a.mean - centre) ** 2) * len(own) / (len(own) - 1) for a in own]
        kept = 1 - torch.eye(len(own) + 1, len(own), dtype=torch.float64).roll(1, 0)
        found[name] = (kept @ torch.tensor(moved) / (kept @ torch.tensor(chance))).sqrt()
    return found, 1 - float(np.mean(filled))


def statistics(demo: Loaded, batch: Any, *, padding: bool) -> Report:
    """Measure one batch, with its padding left out, or averaged in as nn.BatchNorm1d would."""
    keys = batch.mask[:, None, None, :].expand(-1, 1, batch.mask.shape[1], -1)
    with normscope.watch(demo.model) as watcher, torch.no_grad():
        watcher.mask = None if padding else batch.mask
        # A mask of four axes keeps the model from reading padding, and lets normscope count it.
        demo.model(input_ids=batch.inputs["input_ids"], attention_mask=keys)
    return watcher.report()


def over_norms(found: Mapping[str, Tensor], *, log: bool = True) -> tuple[Interval, list[Interval]]:
    """Return the median norm's number with its interval, and the number and interval of each norm."""
    numbers = [interval(values, log=log) for values in found.values()]
    return interval(median(list(found.values())), log=log), numbers


def reached(lengths: Tensor) -> dict[str, Tensor]:
    """Return how many of SIZE texts stand at each position, in batches that reach it, by order."""
    dice = torch.Generator().manual_seed(0)
    draws = [torch.randperm(len(lengths), generator=dice) for _ in range(50)]
    found = {}
    for order, some in (("random", draws), ("by length", [lengths.argsort()])):
        batches = torch.cat([lengths[o][: len(o) // SIZE * SIZE].view(-1, SIZE) for o in some])
        here = (batches[:, :, None] > torch.arange(int(lengths.max()))).sum(1).double()
        found[order] = here.sum(0) / (here > 0).sum(0)
    return found


def error(texts: float) -> float:
    """Return the relative standard error of a variance from so many numbers of a normal variable."""
    return float(np.sqrt(2 / (texts - 1))) if texts > 1 else float("nan")


def picture(held: dict[str, Tensor], noise: dict[str, Interval]) -> Any:
    """Draw the texts at each position, and the noise of batches by length under each change."""
    counts = [
        {"batches": order, "position": at, "texts": texts}
        for order, filled in held.items()
        for at, texts in enumerate(filled.tolist())
    ]
    bars = [{"run": name, "ratio": n.value, "low": n.low, "high": n.high} for name, n in noise.items()]
    base = chart(bars).encode(y=alt.Y("run:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)))
    dots = base.mark_point(filled=True, size=60).encode(
        x=alt.X(
            "ratio:Q",
            title="noise by length over random (1: none)",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=5),
        )
    )
    ends = base.mark_rule().encode(x="low:Q", x2="high:Q")
    reach = lines(counts, "position, position", f"texts, texts of {SIZE}", "batches", "Texts at a position")
    return reach | (ends + dots).properties(width=260, height=220, title="BatchNorm per feature")


def found_rows(runs: dict[str, Ratios], moved: Ratios, texts: int, padded: int) -> list[Row]:
    """Return the rows on the cause of 1c, and on padding."""
    own, wordless, neither = list(runs.values())[:3]
    stays = {name: quotient(wordless[name] ** 2 - 1, own[name] ** 2 - 1) for name in own}
    code = {name: wordless[name] / neither[name] for name in own}
    on, over_one = f"{texts} texts", "1; holds when it is over 1"
    cases = (
        ("1d (ours) Most of the noise of 1c does not need the words of the texts.",
         "1c where all tokens are shuffled across texts, (ratio^2 - 1), over the same of 1c",
         "nothing stays: 0; holds when it is over 1/2", on, over_norms(stays, log=False), 0.5),
        ("1e (ours) A part of it comes from the model's code of positions.",
         "noise of 1c of shuffled tokens, over the same where each text gets positions at random",
         over_one, on, over_norms(code), 1.0),
        ("1f (ours) A part of it comes from the length of a text by itself.",
         "noise of 1c of shuffled tokens with positions at random", over_one, on, over_norms(neither), 1.0),
        ("1g (PyTorch issue 70529) Padding that is averaged in spoils BatchNorm's statistics.",
         f"how far padding moves the means of {SIZE} random texts, over how far other texts move them",
         over_one, f"{padded} texts, each in one of {padded // SIZE} batches", over_norms(moved), 1.0),
    )  # fmt: skip
    return [
        Row(claim, quantity, null, sample, written(number), verdict(norms, threshold))
        for claim, quantity, null, sample, (number, norms), threshold in cases
    ]


def table(runs: dict[str, Ratios], held: dict[str, Tensor]) -> str:
    """Write the noise of batches by length under each change, and the texts at some positions."""
    rows = [f"{'BatchNorm per feature, noise by length over random (1c)':56} {'median norm':>18}  largest"]
    for name, ratio in runs.items():
        number, norms = over_norms(ratio)
        rows.append(f"  {name:54} {written(number):>18} {max(norm.value for norm in norms):8.2f}")
    first = interval(next(iter(runs[SHUFFLED_BOTH].values())), log=True)
    rows.append(f"  {SHUFFLED_BOTH}, first norm alone: {written(first)}")
    heads = "".join(f"{head:>10}" for head in ("random", "error", "by length", "error"))
    rows.append("\n" + f"texts of {SIZE} at position".ljust(24) + heads)
    for at in (at for at in LATE if at < max(map(len, held.values()))):
        cells = [f"{texts[at]:10.1f}{error(float(texts[at])):10.0%}" for texts in held.values()]
        rows.append(f"{at:24}{''.join(cells)}")
    rows.append("error: the relative standard error of a variance of so many normal numbers")
    return "\n".join(rows)


def main() -> None:
    """Test the claims, then run the model again to find the cause, and with padding."""
    args = options(__doc__, "variable_length.png")
    count, length, padded = (80, 32, 32) if args.quick else (600, 64, 256)
    texts, demo = sentences(count), pretrained(reduced=args.quick)
    report = normscope.why(demo, texts, batching=normscope.Batching(max_length=length))
    claims = {each.id: each for each in report.claims}
    ids = token_ids(demo, texts, length)
    mixed, tokens = shuffled(demo, ids), run(demo, ids, length)
    runs = {
        "the texts": ratios(tokens),
        "tokens shuffled": ratios(run(demo, mixed, length)),
        SHUFFLED_BOTH: ratios(run(demo, mixed, length, any_position=True)),
        "the texts, special tokens counted": ratios(tokens, with_special=True),
    }
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    some = [texts[i] for i in order[:padded].tolist()]
    (moved, empty), (alike, less_empty) = (padding(demo, some, length, by) for by in ("given", "length"))
    rows = [row(report, claims["1a"], "{:.0%}"), row(report, claims["1b"]), row(report, claims["1c"])]
    rows += found_rows(runs, moved, len(texts), len(some))
    noise = {name: over_norms(ratio)[0] for name, ratio in runs.items()}
    answer = (
        f"Batches of {SIZE} texts by length are {rows[1].found} times as noisy as random ones at late\n"
        f"positions (claim 1b: {rows[1].verdict}), and {rows[2].found} times as noisy for BatchNorm\n"
        f"per feature (1c: {rows[2].verdict}). With all tokens shuffled across texts the second number\n"
        f"is {written(noise['tokens shuffled'])}. Padding that is averaged in moves the means of random\n"
        f"batches {rows[-1].found} times as far as other texts do."
    )
    held = reached(torch.tensor([len(text) for text in ids]))
    filling = (
        f"padding: {empty:.0%} of random batches, {less_empty:.0%} of batches by length. In these it moves\n"
        f"the means {over_norms(alike)[0].value:.3g} times as far as other texts do (one order of one set of "
        "texts: no interval)."
    )
    show(args, answer, rows, f"{table(runs, held)}\n\n{filling}", picture(held, noise))


main()
