"""Does the norm matter, and does it depend on the network? The control experiment of the article, enlarged.

The same MLP (digits), GRU and Transformer (the next word of Python's documentation) learn with each norm,
from the same starts and the same batches, one learning rate for all. BatchNorm takes padding in, as
PyTorch's does, or leaves it out. What its batches would see is watched while LayerNorm's networks learn.

Run: python examples/mlp_rnn_transformer.py [--quick] [--picture curves.png]     (about five minutes)
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import Row, lines, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import MLP, NORMS, RNN, Transformer, accuracy, batch_noise, loss_of
from torch import nn

Made = tuple[Callable[[str], nn.Module], Callable[[], Samples]]
TEXT: dict[str, Made] = {"RNN": (RNN, next_words), "Transformer": (Transformer, next_words)}
NETWORKS: dict[str, Made] = {"MLP": (MLP, digits), **TEXT}
RATE, EVERY, LOOKS, WATCHED = 3e-3, 10, 5, 8


class Run(NamedTuple):
    """One training: which, its accuracy on samples kept back, losses and, where watched, batch noise."""

    network: str
    norm: str
    size: int
    seed: int
    accuracy: float
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
        loss = loss_of(model, batch)
        rule.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        rule.step()
        if step % EVERY == 0:
            losses.append((step, loss.item()))
    return Run(network, norm, size, seed, accuracy(model, kept), losses, noise)


def better(runs: list[Run], network: str, one: str, other: str, size: int | None = None) -> Any:
    """Return how much more accurate one norm is than another, run against run of one start."""
    of = {(r.norm, r.size, r.seed): 100 * r.accuracy for r in runs if r.network == network}
    chosen, seeds = {s for _, s, _ in of if size in (None, s)}, {seed for *_, seed in of}
    leads = [[of[one, s, seed] - of[other, s, seed] for s in chosen] for seed in sorted(seeds)]
    return over_runs([float(np.mean(lead)) for lead in leads])


def table(runs: list[Run], network: str, sizes: tuple[int, ...]) -> str:
    """Write the accuracy of every norm at every batch size, and the noise that was watched."""
    own = [run for run in runs if run.network == network]
    rows = [f"{network + ', right in %':22}" + "".join(f"{f'batches of {size}':>20}" for size in sizes)]
    for norm in dict.fromkeys(run.norm for run in own):
        cells = [[100 * r.accuracy for r in own if (r.norm, r.size) == (norm, size)] for size in sizes]
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
    sizes, seeds, steps = ((8,), 2, 2) if args.quick else ((4, 16, 64), 4, 150)
    runs = []
    for network, (_, load) in NETWORKS.items():
        data = load()
        norms = [norm for norm in NORMS if data.mask is not None or norm != "batch, masked"]
        plan = [(norm, size, seed) for norm in norms for size in sizes for seed in range(seeds)]
        runs += [train(network, norm, size, seed, steps, data) for norm, size, seed in plan]
    leads = {
        f"LayerNorm is better than {name} in the {network}.": better(runs, network, "layer", other)
        for network in NETWORKS
        for other, name in (("none", "no norm"), ("batch", "BatchNorm"))
    }
    about = f"points of accuracy, {steps} steps, batches of {sizes}, {seeds} seeds; holds over 0"
    rows = [Row(f"7 {s}", about, written(x, "{:+.1f}"), verdict(x, 0.0)) for s, x in leads.items()]
    answer = "\n".join(f"{row.claim[2:]} {row.found} points of accuracy: {row.verdict}" for row in rows)
    numbers = [table(runs, network, sizes) for network in NETWORKS]
    for network in TEXT:
        by_size = [written(better(runs, network, "layer", "batch", size), "{:+.1f}") for size in sizes]
        numbers.append(f"{network}: LayerNorm over BatchNorm, by batch size: {', '.join(by_size)}")
        masked = written(better(runs, network, "batch, masked", "batch"), "{:+.1f}")
        numbers.append(f"{network}: BatchNorm without padding over BatchNorm with it: {masked}")
    show(args, answer, rows, "\n\n".join(numbers), picture(runs))


if __name__ == "__main__":
    main()
