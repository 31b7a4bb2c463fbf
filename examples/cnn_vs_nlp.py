"""Batch statistics of a CNN and of Transformers: which are noisier?

A CNN with BatchNorm learns digits; Transformers learn to predict the next word, one with LayerNorm and one
with BatchNorm (padding left out). Then the expected noise of a batch's mean at each norm: at equal numbers
of samples, and at equal numbers of pooled elements (a channel pools pixels, a feature pools words). And, as
in figure 2 of PowerNorm (arXiv 2003.07845), how far batches are from BatchNorm's running means in training.

One seed, which gives the starting weights and the order of the data, is one observation. The samples are
the same in all of them: the intervals do not cover other texts or other images.

Run: python examples/cnn_vs_nlp.py [--quick] [--picture noise.png]     (two minutes)
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from _common import Row, lines, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import CNN, Transformer, learn, running_gap, sample_moments
from normscope.results.why import Interval
from normscope.statistics.expected_noise import TextSums, random_excess, random_noise

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Samples]]] = {
    "CNN": (CNN, digits),
    "Transformer": (lambda: Transformer("layer"), next_words),
    "Transformer, BN": (lambda: Transformer("batch, masked"), next_words),
}
SAMPLES, BATCH, MEASURED = 16, 32, 800
Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Training(NamedTuple):
    """One seed: by norm noise of SAMPLES, noise of one element, elements, and gaps (steps, norms)."""

    samples: Numbers
    element: Numbers
    elements: Numbers
    gaps: Numbers


def train(make: Callable[[], nn.Module], data: Samples, seed: int, steps: int) -> Training:
    """Train one network; measure the batches on the way, and the norms at the end."""
    torch.manual_seed(seed)
    model = make()
    rule = torch.optim.Adam(model.parameters(), lr=3e-3)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    gaps = []
    for batch in islice(data.batches(BATCH, seed), steps):
        before: list[Any] = [(norm.running_mean, norm.running_var) for norm in norms]
        before = [(mean.clone(), variance.clone()) for mean, variance in before]
        learn(model, rule, batch)
        gaps.append([running_gap(norm, *old) for norm, old in zip(norms, before, strict=True)])
    moments = sample_moments(model, data.take(torch.arange(0, len(data), -(-len(data) // MEASURED))))
    weights = torch.ones(1, len(moments[0].mean)).double()
    sums = [TextSums.of(norm).centred(weights) for norm in moments]
    return Training(
        np.array([float(random_noise(norm, SAMPLES)) for norm in sums]),
        np.array([float(random_excess(norm, SAMPLES)) for norm in sums]),
        np.array([SAMPLES * float(norm.count.mean()) for norm in moments]),
        np.array(gaps),
    )


def compare(
    text: list[Numbers], images: list[Numbers], of: Callable[[Numbers], Any] = np.median
) -> tuple[Interval, list[Interval]]:
    """Return text over images, seed by seed: for the median norm of the text, then for each of its norms.

    `of` chooses the number of the images among their norms.
    """
    ratios = np.array([norms / float(of(own)) for norms, own in zip(text, images, strict=True)])
    each = [over_runs(norm.tolist(), log=True) for norm in ratios.T]
    return over_runs(np.median(ratios, 1).tolist(), log=True), each


def picture(found: dict[str, list[Training]]) -> Any:
    """Draw the noise by norm, and the distance from the running means in training; averages over seeds."""
    noise = [
        {"network": name, "norm": norm, "samples": run.samples[norm], "element": run.element[norm]}
        for name, runs in found.items()
        for run in runs
        for norm in range(len(run.samples))
    ]
    steps = [
        {"network": name, "step": step, "gap": float(np.median(gaps))}
        for name, runs in found.items()
        for run in runs
        for step, gaps in enumerate(run.gaps)
        if len(gaps) and step % 4 == 0
    ]
    samples = lines(
        noise, "norm, norm", f"mean(samples), noise of {SAMPLES} samples", "network", "By samples"
    )
    element = lines(
        noise, "norm, norm", "mean(element), against independent elements", "network", "By elements"
    )
    training = lines(
        steps, "step, step", "mean(gap), batch less running mean, in sds", "network", "In training"
    )
    return samples | element | training


def late_gaps(runs: list[Training]) -> list[Numbers]:
    """Return the root mean square of the gaps of each norm (L,) over the second half of each training."""
    return [np.sqrt((run.gaps[len(run.gaps) // 2 :] ** 2).mean(0)) for run in runs]


def claims(found: dict[str, list[Training]], steps: int) -> list[Row]:
    """Return the rows of claims 5 and 6."""
    image, text = found["CNN"], found["Transformer"]
    sizes, image_sizes = ([run.samples for run in runs] for runs in (text, image))
    elements, image_elements = ([run.element for run in runs] for runs in (text, image))
    samples = f"noise of the mean of {SAMPLES} samples"
    pooled = "noise of the mean at equal pooled elements, words or pixels"
    null, on = "both alike: 1; holds when it is over 1", f"{len(text)} seeds"
    return [
        Row(claim, f"{quantity}; the Transformer's norms over the CNN's {norm} norm", null, on,
            written(number), verdict(norms, 1.0))
        for claim, quantity, norm, (number, norms) in (
            ("5 BatchNorm suits images better: at equally many samples, its statistics are noisier on text.",
             samples, "median", compare(sizes, image_sizes)),
            ("5b The same, against the noisiest norm of the CNN.",
             samples, "noisiest", compare(sizes, image_sizes, np.max)),
            ("6 Its statistics are noisier on text even when equally many values are pooled.",
             pooled, "median", compare(elements, image_elements)),
            ("6b The same, against the noisiest norm of the CNN.",
             pooled, "noisiest", compare(elements, image_elements, np.max)),
            ("6c In training, too: batches of text are further from BatchNorm's running means.",
             f"batch mean less running mean, {BATCH} samples, second half of {steps} steps",
             "median", compare(late_gaps(found["Transformer, BN"]), late_gaps(image))),
        )
    ]  # fmt: skip


def table(found: dict[str, list[Training]]) -> str:
    """Write the numbers of each norm, averages over seeds."""
    heads = (f"noise of {SAMPLES}", "elements", "one element", "from running")
    rows = [f"{'average over seeds':26}" + "".join(f"{head:>14}" for head in heads)]
    for name, runs in found.items():
        late = late_gaps(runs)
        for norm in range(len(runs[0].samples)):
            noise, element, count = (
                float(np.mean([values[norm] for values in some]))
                for some in ([r.samples for r in runs], [r.element for r in runs], [r.elements for r in runs])
            )
            training = f"{np.mean([gaps[norm] for gaps in late]):.3f}" if late[0].size else "-"
            cells = (f"{noise:.3f}", f"{count:,.0f}", f"{element:.2f}", training)
            rows.append(f"{f'{name}, norm {norm}':26}" + "".join(f"{cell:>14}" for cell in cells))
    rows.append("noise of one element: 1 if the words of a text, or the pixels of an image, were independent")
    return "\n".join(rows)


def main() -> None:
    """Train the three networks with each seed and compare them, seed by seed."""
    args = options(__doc__, "cnn_vs_nlp.png")
    seeds, steps = (2, 6) if args.quick else (8, 240)
    loaded = {load: load() for _, load in NETWORKS.values()}
    found = {
        name: [train(make, loaded[load], seed, steps) for seed in range(seeds)]
        for name, (make, load) in NETWORKS.items()
    }
    rows = claims(found, steps)
    answer = (
        f"The Transformer's batch means are {rows[0].found} times as noisy as the CNN's at {SAMPLES}\n"
        f"samples: {rows[0].verdict}; {rows[2].found} times at equal numbers of words and\n"
        f"pixels: {rows[2].verdict}. Against the CNN's noisiest norm: {rows[1].found}, {rows[3].found}.\n"
        f"In training, batches of {BATCH} are {rows[4].found} times as far from BatchNorm's running\n"
        f"means: {rows[4].verdict}. {seeds} seeds, 95% intervals."
    )
    show(args, answer, rows, table(found), picture(found))


main()
