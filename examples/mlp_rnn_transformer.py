"""Does the norm matter, and does it depend on the network? The control experiment of the article, enlarged.

The same MLP (digits), GRU and Transformer (the next word of Python's documentation) learn with each norm,
from the same starts and batches, at one learning rate. BatchNorm takes padding in, as PyTorch's does, or
leaves it out. What its batches would see is watched while LayerNorm's networks learn.

Run: python examples/mlp_rnn_transformer.py [--quick] [--picture curves.png]     (about two minutes)
"""

from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
import torch

from _common import Row, lines, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import MLP, NORMS, RNN, Transformer, accuracy, batch_noise, learn
from normscope.results.why import Interval

TEXT: dict[str, Any] = {"RNN": (RNN, next_words), "Transformer": (Transformer, next_words)}
NETWORKS: dict[str, Any] = {"MLP": (MLP, digits), **TEXT}
RATE, EVERY, LOOKS, WATCHED = 3e-3, 10, 5, 8


class Run(NamedTuple):
    """One training: its accuracy in % on samples kept back, losses, and the batch noise that was watched."""

    network: str
    norm: str
    size: int
    seed: int
    accuracy: float
    pace: float  # less the mean of the losses: the faster it learned, the higher
    losses: list[tuple[int, float]]
    noise: list[tuple[int, float]]


def train(network: str, norm: str, size: int, seed: int, steps: int, data: Samples) -> Run:
    """Train one network; a few times on the way, what batches of this size would see is watched."""
    torch.manual_seed(seed)
    model = NETWORKS[network][0](norm)
    known, kept = data.split(test=400)
    rule = torch.optim.Adam(model.parameters(), lr=RATE)
    losses, noise = [], []
    for step, batch in enumerate(islice(known.batches(size, seed), steps + 1)):
        if norm == "layer" and seed == 0 and step % -(-steps // LOOKS) == 0:
            found = batch_noise(model, list(islice(known.batches(size, seed), WATCHED)))
            noise.append((step, float(np.median([off for _, off in found.values()]))))
        loss = learn(model, rule, batch)
        losses += [(step, loss)] if step % EVERY == 0 else []
    right, pace = 100 * accuracy(model, kept), -float(np.mean([loss for _, loss in losses]))
    return Run(network, norm, size, seed, right, pace, losses, noise)


def lead(runs: list[Run], network: str, one: str, other: str, of: str) -> Interval:
    """Return how far one norm is ahead of another: seed by seed, averaged over the batch sizes."""
    known = {(run.norm, run.seed, run.size): getattr(run, of) for run in runs if run.network == network}
    sizes, seeds = {size for *_, size in known}, sorted({seed for _, seed, _ in known})
    ahead = [[known[one, seed, size] - known[other, seed, size] for size in sizes] for seed in seeds]
    return over_runs([float(np.mean(found)) for found in ahead])


def table(runs: list[Run], network: str, sizes: tuple[int, ...]) -> str:
    """Write the accuracy of every norm at every batch size, and the noise that was watched."""
    own = [run for run in runs if run.network == network]
    rows = [f"{network + ', right in %':22}" + "".join(f"{f'batches of {size}':>20}" for size in sizes)]
    for norm in dict.fromkeys(run.norm for run in own):
        cells = [[r.accuracy for r in own if (r.norm, r.size) == (norm, size)] for size in sizes]
        rows.append(f"  {norm:20}" + "".join(f"{written(over_runs(cell), '{:.1f}'):>20}" for cell in cells))
    for run in own:
        if run.noise:
            path = " ".join(f"{off:.2f}" for _, off in run.noise)
            rows.append(f"  noise of means (TID) while it learns, batches of {run.size}: {path}")
    return "\n".join(rows)


def picture(runs: list[Run]) -> Any:
    """Draw the losses while training, a panel for each network and batch size; averages over seeds."""
    rows = [
        {"network": run.network, "norm": run.norm, "size": run.size, "step": step, "loss": loss}
        for run in runs
        for step, loss in run.losses
    ]
    panels = lines(rows, "step, training step", "mean(loss), loss", "norm").properties(width=230, height=150)
    return panels.facet(row="network:N", column="size:O").resolve_scale(y="independent")


def main() -> None:
    """Train everything, then compare the norms run against run."""
    args = options(__doc__, "mlp_rnn_transformer.png")
    sizes, seeds, steps = ((8,), 2, 2) if args.quick else ((4, 16, 64), 3, 90)
    runs = []
    for network, (_, load) in NETWORKS.items():
        data = load()
        norms = [norm for norm in NORMS if data.mask is not None or norm != "batch, masked"]
        cases = product(norms, sizes, range(seeds))
        runs += [train(network, norm, size, seed, steps, data) for norm, size, seed in cases]
    about = (
        f"points of accuracy, {steps} steps, batches {sizes[0]} to {sizes[-1]}, {seeds} seeds; holds over 0"
    )
    rows = []
    for network, (other, norm) in product(NETWORKS, (("no norm", "none"), ("BatchNorm", "batch"))):
        ahead = lead(runs, network, "layer", norm, "accuracy")
        claim = f"7 LayerNorm is better than {other} in the {network}."
        rows.append(Row(claim, about, written(ahead, "{:+.1f}"), verdict(ahead, 0.0)))
    answer = f"Of {len(rows)} claims for LayerNorm {sum(row.verdict == 'holds' for row in rows)} hold:\n"
    answer += "\n".join(f"{row.claim[2:-1]}: {row.found} points, {row.verdict}" for row in rows)
    numbers = [table(runs, network, sizes) for network in NETWORKS]
    pace = ", ".join(f"{name} {written(lead(runs, name, 'layer', 'batch', 'pace'))}" for name in NETWORKS)
    numbers.append(f"training loss of LayerNorm less than BatchNorm's, nats, average of all steps: {pace}")
    masked = (f"{name} {written(lead(runs, name, NORMS[2], NORMS[1], 'accuracy'))}" for name in TEXT)
    numbers.append(f"points of BatchNorm without padding over BatchNorm with it: {', '.join(masked)}")
    show(args, answer, rows, "\n\n".join(numbers), picture(runs))


main()
