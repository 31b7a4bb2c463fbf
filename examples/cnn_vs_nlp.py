"""Are the statistics of a CNN's batches steadier than those of a Transformer's?

A CNN with BatchNorm learns digits; Transformers learn the next word, one with LayerNorm and one with
BatchNorm (padding left out). Then the noise of batch means (TID) at each norm, at equal numbers of samples
and at equal numbers of pooled elements: a channel pools pixels, a feature pools words. And, as in figure 2
of PowerNorm (arXiv 2003.07845), how far batches are from BatchNorm's running statistics as it learns.

Run: python examples/cnn_vs_nlp.py [--quick] [--picture noise.png]     (under two minutes)
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import altair as alt
import numpy as np
import torch
from torch import nn

import normscope
from _common import Row, lines, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import CNN, Transformer, batch_noise, learn

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Samples]]] = {
    "CNN": (CNN, digits),
    "Transformer": (lambda: Transformer("layer"), next_words),
    "Transformer, BN": (lambda: Transformer("batch, masked"), next_words),
}
SAMPLES, ELEMENTS, LAST = 16, 256, 5
Noise = dict[int, list[tuple[float, float]]]  # by batch size: each norm's pooled elements and TID
Gaps = list[tuple[int, float]]  # step, and the gap of the median norm


def train(make: Callable[[], nn.Module], data: Samples, seed: int, steps: int) -> tuple[nn.Module, Gaps]:
    """Train one network; now and then, watch how far a batch is from BatchNorm's running means."""
    torch.manual_seed(seed)
    model, gaps = make(), []
    rule = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step, batch in enumerate(islice(data.batches(32, seed), steps)):
        if step % max(1, steps // 20) == 0:  # before the step, which would take the batch into them
            with normscope.watch(model.eval()) as watcher, torch.no_grad():
                model(batch.inputs, batch.mask)
            model.train()
            stored = [layer.stored_gap for layer in watcher.report().layers.values()]
            gaps += [(step, float(np.median([gap.mean for gap in stored if gap])))] if any(stored) else []
        learn(model, rule, batch)
    return model, gaps


def alike(found: Noise) -> tuple[float, float]:
    """Return the median norm's noise at SAMPLES, and at ELEMENTS, by a line through the logarithms."""
    norms = [np.log(norm) for norm in zip(*found.values(), strict=True)]  # (sizes, 2) each
    fits = [np.polyfit(norm[:, 0], norm[:, 1], 1) for norm in norms]
    at_elements = [np.exp(np.polyval(fit, np.log(ELEMENTS))) for fit in fits]
    return float(np.median([off for _, off in found[SAMPLES]])), float(np.median(at_elements))


def picture(found: dict[str, list[Noise]], gaps: dict[str, list[Gaps]]) -> Any:
    """Draw the noise against samples and against pooled elements, and the gap while training."""
    noisy = [
        {"network": name, "norm": f"{name} {norm}", "samples": size, "elements": pooled, "off": off}
        for name, runs in found.items()
        for size, norms in runs[0].items()
        for norm, (pooled, off) in enumerate(norms)
    ]
    steps = [{"network": n, "step": step, "gap": gap} for n in gaps for step, gap in gaps[n][0]]
    off, more = "off, noise of a batch's mean (TID)", alt.Detail("norm:N")
    samples = lines(noisy, "samples, samples", off, "network", "By samples", True, detail=more)
    elements = lines(noisy, "elements, elements", off, "network", "By pooled elements", True, detail=more)
    gap = "gap, batch less running mean, in sds"
    return samples | elements | lines(steps, "step, training step", gap, "network", "In training")


def main() -> None:
    """Train the three networks a few times and compare them, seed by seed."""
    args = options(__doc__, "cnn_vs_nlp.png")
    sizes: tuple[int, ...] = (4, 16) if args.quick else (2, 4, 8, 16, 32, 64)
    seeds, steps, batches = (2, 5, 3) if args.quick else (4, 240, 16)
    found, gaps = ({name: [] for name in NETWORKS} for _ in range(2))  # type: Any, Any
    for name, (make, load) in NETWORKS.items():
        for seed in range(seeds):
            model, gap = train(make, load(), seed, steps)
            drawn = {size: list(islice(load().batches(size, seed), batches)) for size in sizes}
            found[name].append({size: [*batch_noise(model, some).values()] for size, some in drawn.items()})
            gaps[name].append(gap)
    text, image = (np.array([alike(run) for run in found[name]]) for name in ("Transformer", "CNN"))
    samples, elements = map(over_runs, (text / image).T)
    ends = {name: [float(np.mean([g for _, g in run[-LAST:]])) for run in gaps[name] if run] for name in gaps}
    end = over_runs([a / b for a, b in zip(ends["Transformer, BN"], ends["CNN"], strict=True)])
    answer = (
        f"The Transformer's batch means are {written(samples)} times as noisy as the CNN's at {SAMPLES} "
        f"samples,\n{written(elements)} times at {ELEMENTS} pooled pixels or words; in training, batches are "
        f"{written(end)}\ntimes as far from BatchNorm's running means."
    )
    about = f"Transformer over CNN, median norm, {seeds} seeds; holds over 1"
    claims = (
        ("5 BatchNorm suits CNNs: their statistics are steadier.", f"TID at {SAMPLES} samples", samples),
        ("5 The same, with as many pooled elements.", f"TID at {ELEMENTS} pixels or words", elements),
        ("6 In training, text is further from running statistics.", "32 samples less running mean", end),
    )
    rows = [Row(says, f"{what}: {about}", written(x), verdict(x, 1.0)) for says, what, x in claims]
    table = [f"{'noise of means (TID)':24}" + "".join(f"{f'{size} samples':>12}" for size in sizes)]
    for name, runs in found.items():
        for norm in range(len(runs[0][SAMPLES])):
            cells = [np.mean([run[size][norm] for run in runs], axis=0) for size in sizes]
            table.append(f"{f'{name}, norm {norm}':24}" + "".join(f"{off:12.3f}" for _, off in cells))
            table.append(f"{'  pooled elements':24}" + "".join(f"{pooled:12,.0f}" for pooled, _ in cells))
    show(args, answer, rows, "\n".join(table), picture(found, gaps))


main()
