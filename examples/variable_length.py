"""What do texts of different length do to BatchNorm's statistics, and is padding the culprit?

Claim 1 of the article: late positions rest on few texts, and sorting by length eases that. Then what
happens where padding is averaged in, as nn.BatchNorm1d does (github.com/pytorch/pytorch/issues/70529).

Run: python examples/variable_length.py [--quick] [--picture lengths.png]     (about two minutes)
"""

from typing import Any

import altair as alt
import numpy as np
import torch

import normscope
from _common import Row, options, over_runs, row, show, verdict, written
from _data import sentences
from normscope.batch_report import BatchReport
from normscope.batches import Batches
from normscope.loading import Loaded, load
from normscope.report import Report

ORDERS = {"random": "given", "length": "length"}  # batch_noise's names, and those of Batching
SIZE = 32
LATE = (0, 8, 16, 24, 32, 48, 63)


def statistics(demo: Loaded, batch: Any, *, padding: bool) -> Report:
    """Measure one batch, its padding left out, or averaged in as nn.BatchNorm1d would."""
    keys = batch.mask[:, None, None, :].expand(-1, 1, batch.mask.shape[1], -1)
    with normscope.watch(demo.model) as watcher, torch.no_grad():
        watcher.mask = None if padding else batch.mask
        # A mask of four axes keeps the model from reading padding, and lets normscope count it.
        demo.model(input_ids=batch.inputs["input_ids"], attention_mask=keys)
    return watcher.report()


def off_by_padding(demo: Loaded, texts: list[str], order: str, length: int) -> list[float]:
    """Return for each batch how far padding moves BN's means, in the tokens' sds: the median layer."""
    batching = normscope.Batching(SIZE, max_length=length, order=order)
    found = []
    for batch in Batches(texts, demo.tokenizer, batching, max_length=None):
        right, wrong = (statistics(demo, batch, padding=padding).layers for padding in (False, True))
        moved = []
        for name, layer in right.items():
            known: Any = layer.feature
            other: Any = wrong[name].feature
            moved.append(np.linalg.norm(other.mean - known.mean) / np.sqrt(known.variance.sum()))
        found.append(float(np.median(moved)))
    return found


def by_order(report: BatchReport) -> dict[str, Any]:
    """Return what batches of SIZE hold, and the median layer's noise, for both orders."""
    found = {}
    for order in ORDERS:
        held = next(b for b in report.batches if (b.batch_size, b.order) == (SIZE, order))
        noise = [
            each.tid.mean.mean
            for layer in report.layers.values()
            for each in layer.sizes or ()
            if (each.batch_size, each.order) == (SIZE, order)
        ]
        found[order] = (held, float(np.median(noise)))
    return found


def error(texts: float) -> float:
    """Return the relative standard error of a variance from so many numbers of a normal variable."""
    return float(np.sqrt(2 / (texts - 1))) if texts > 1 else float("nan")


def picture(held: dict[str, Any], moved: dict[str, list[float]]) -> Any:
    """Draw the texts at each position, and what padding does beside what chance does."""
    order = alt.Color("order:N", title="batches", scale=alt.Scale(domain=["random", "by length"]))
    called = {"random": "random", "length": "by length"}
    counts = [
        {"order": called[name], "position": at, "texts": texts}
        for name, (filled, _) in held.items()
        for at, texts in enumerate(filled.positions.tolist())
    ]
    reach = alt.Chart(alt.Data(values=counts)).mark_line(strokeWidth=2.5)
    reach = reach.encode(x=alt.X("position:Q"), y=alt.Y("texts:Q", title=f"texts of {SIZE}, where any", scale=alt.Scale(zero=True)), color=order)
    rows = []
    for name in ORDERS:
        rows.append({"order": called[name], "why": "chance", "off": held[name][1]})
        rows.append({"order": called[name], "why": "padding averaged in", "off": float(np.mean(moved[name]))})
    bars = alt.Chart(alt.Data(values=rows)).mark_bar().encode(
        x=alt.X("off:Q", title="BN's mean is off by (TID)", scale=alt.Scale(zero=True)),
        y=alt.Y("why:N", title=None), yOffset="order:N", color=order,
    )  # fmt: skip
    size = {"width": 340, "height": 220}
    return reach.properties(title="Texts at a position", **size) | bars.properties(title="Batch statistics", **size)


def main() -> None:
    """Count, then measure both orders, with padding and without."""
    args = options(__doc__, "variable_length.png")
    texts, length = sentences(96 if args.quick else 600), 32 if args.quick else 64
    demo = load("demo")
    batching = normscope.Batching(max_length=length)
    drawing = normscope.Drawing(sizes=(8, SIZE))
    held = by_order(normscope.batch_noise(demo, texts, batching=batching, drawing=drawing))
    claims = {each.id: each for each in normscope.why(demo, texts, batching=batching, samples=256).claims}
    moved = {name: off_by_padding(demo, texts, order, length) for name, order in ORDERS.items()}
    ratio = over_runs([off / held["random"][1] for off in moved["random"]])
    answer = (
        f"Averaging padding in puts BN's means {written(ratio)} times as far off as the chance of drawing {SIZE} "
        f"random texts does.\nSorting by length brings padding from {held['random'][0].padding_share:.0%} to "
        f"{held['length'][0].padding_share:.0%}, but the means of batches become "
        f"{written(claims['1b'].evidence[0].number)} times as noisy (claim 1b {claims['1b'].verdict})."
    )
    padded = Row(
        "1c (PyTorch issue 70529) Padding that is averaged in spoils BN's statistics.",
        f"how far padding moves the means of {SIZE} random texts, over how far chance does; holds over 1",
        written(ratio), verdict(ratio, 1.0),
    )  # fmt: skip
    lines = [f"{'texts of ' + str(SIZE) + ' at position':24} {'random':>8} {'sd error':>9} {'by length':>10} {'sd error':>9}"]
    for at in (at for at in LATE if at < length):
        cells = [float(filled.positions[at]) for filled, _ in held.values()]
        lines.append(f"{at:24} {cells[0]:8.1f} {error(cells[0]):9.0%} {cells[1]:10.1f} {error(cells[1]):9.0%}")
    for name, (filled, noise) in held.items():
        off = written(over_runs(moved[name]))
        lines.append(f"{name}: padding {filled.padding_share:.1%}, noise {noise:.3g}, padding averaged in {off}")
    rows = [row(claims["1a"], "{:.0%}"), row(claims["1b"]), padded]
    show(args, answer, rows, "\n".join(lines), picture(held, moved))


if __name__ == "__main__":
    main()
