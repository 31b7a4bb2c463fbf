"""What do texts of different length do to BatchNorm's statistics, and is padding the culprit?

Claim 1 of the article: late positions rest on few texts, and sorting by length eases that. Then what
happens where padding is averaged in, as nn.BatchNorm1d does (github.com/pytorch/pytorch/issues/70529).

Run: python examples/variable_length.py [--quick] [--picture lengths.png]     (about a minute)
"""

from typing import Any

import altair as alt
import numpy as np
import torch

import normscope
from _common import Row, chart, lines, options, over_runs, row, show, verdict, written
from _data import sentences
from normscope.data.batching import Batches
from normscope.models.loading import Loaded, load
from normscope.results.batches import BatchReport
from normscope.results.inspect import Report

ORDERS = {"random": "given", "length": "length"}  # as normscope.Drawing calls them, and normscope.Batching
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
    tokenizer: Any = demo.tokenizer
    found = []
    for batch in Batches(texts, tokenizer, batching, max_length=None):
        right, wrong = (statistics(demo, batch, padding=padding).layers for padding in (False, True))
        moved = []
        for name, layer in right.items():
            known: Any = layer.feature
            other: Any = wrong[name].feature
            moved.append(np.linalg.norm(other.mean - known.mean) / np.sqrt(known.variance.sum()))
        found.append(float(np.median(moved)))
    return found


def by_order(report: BatchReport, order: str) -> tuple[Any, float]:
    """Return what batches of SIZE in this order hold, and the noise of their means at the median layer."""
    held = next(each for each in report.batches if each.order == order)
    layers = [layer.sizes or () for layer in report.layers.values()]
    return held, float(np.median([e.tid.mean.mean for sizes in layers for e in sizes if e.order == order]))


def error(texts: float) -> float:
    """Return the relative standard error of a variance from so many numbers of a normal variable."""
    return float(np.sqrt(2 / (texts - 1))) if texts > 1 else float("nan")


def picture(held: dict[str, tuple[Any, float]], moved: dict[str, list[float]]) -> Any:
    """Draw the texts at each position, and what padding does beside what chance does."""
    counts = [
        {"batches": order, "position": at, "texts": texts}
        for order, (filled, _) in held.items()
        for at, texts in enumerate(filled.positions.tolist())
    ]
    off = [{"batches": order, "why": "chance", "off": noise} for order, (_, noise) in held.items()]
    padded = {order: float(np.mean(found)) for order, found in moved.items()}
    off += [{"batches": order, "why": "padding averaged in", "off": found} for order, found in padded.items()]
    bars = chart(off).mark_bar().encode(
        x=alt.X("off:Q", title="BN's mean is off by (TID)", scale=alt.Scale(zero=True)),
        y=alt.Y("why:N", title=None), yOffset="batches:N", color="batches:N",
    )  # fmt: skip
    reach = lines(counts, "position, position", f"texts, texts of {SIZE}", "batches", "Texts at a position")
    return reach | bars.properties(width=260, height=220, title="Batch statistics")


def main() -> None:
    """Count, then measure both orders, with padding and without."""
    args = options(__doc__, "variable_length.png")
    count, length, samples = (64, 32, 32) if args.quick else (600, 64, 256)
    texts, demo, batching = sentences(count), load("demo"), normscope.Batching(max_length=length)
    noisy = normscope.batch_noise(demo, texts, batching=batching, drawing=normscope.Drawing(sizes=(SIZE,)))
    held = {order: by_order(noisy, order) for order in ORDERS}
    found = normscope.why(demo, texts, batching=batching, samples=samples).claims
    late, sorting = (next(each for each in found if each.id == name) for name in ("1a", "1b"))
    moved = {order: off_by_padding(demo, texts, given, length) for order, given in ORDERS.items()}
    ratio = over_runs([off / held["random"][1] for off in moved["random"]])
    shares = [f"{filled.padding_share:.0%}" for filled, _ in held.values()]
    answer = (
        f"Averaging padding in puts BN's means {written(ratio)} times as far off as chance does, in {SIZE} "
        f"random texts.\nSorting by length brings padding from {' to '.join(shares)}, but makes the means of "
        f"batches {written(sorting.evidence[0].number)} times as noisy\n(claim 1b {sorting.verdict})."
    )
    claim = "1c (PyTorch issue 70529) Padding that is averaged in spoils BN's statistics."
    measured = (
        f"how far padding moves the means of {SIZE} random texts, over how far chance does; holds over 1"
    )
    rows = [row(late, "{:.0%}"), row(sorting), Row(claim, measured, written(ratio), verdict(ratio, 1.0))]
    table = [f"{f'texts of {SIZE} at position':24} {'random':>8} {'error':>7} {'by length':>10} {'error':>7}"]
    for at in (at for at in LATE if at < length):
        random, alike = (float(filled.positions[at]) for filled, _ in held.values())
        table.append(f"{at:24} {random:8.1f} {error(random):7.0%} {alike:10.1f} {error(alike):7.0%}")
    for order, (filled, noise) in held.items():
        off = written(over_runs(moved[order]))
        table.append(
            f"{order}: padding {filled.padding_share:.1%}, chance {noise:.3g}, padding averaged in {off}"
        )
    show(args, answer, rows, "\n".join(table), picture(held, moved))


main()
