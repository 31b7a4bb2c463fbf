"""Does the norm matter, and does it depend on the network? The control experiment of the article, enlarged.

The same MLP (digits), GRU and Transformer (the next word of Python's documentation) learn with each norm,
from the same starts and the same batches, one learning rate for all. BatchNorm takes padding in, as
PyTorch's does, or leaves it out. What its batches would see is watched while LayerNorm's networks learn.

Run: python examples/mlp_rnn_transformer.py [--quick] [--picture curves.png]     (about five minutes)
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import torch
from torch import nn

from _common import Row, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import MLP, NORMS, RNN, Transformer, accuracy, batch_noise, loss_of

NETWORKS: dict[str, tuple[Callable[[str], nn.Module], Callable[[], Samples]]] = {
    "MLP": (MLP, digits),
    "RNN": (RNN, next_words),
    "Transformer": (Transformer, next_words),
}
RATE, EVERY, WATCHED = 3e-3, 10, 8


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
    """Train one network; every fifth of the way the noise of batches of this size is watched."""
    torch.manual_seed(seed)
    model = NETWORKS[network][0](norm)
    known, kept = data.split(test=400)
    rule = torch.optim.Adam(model.parameters(), lr=RATE)
    losses, noise = [], []
    for step, batch in enumerate(islice(known.batches(size, seed), steps + 1)):
        if norm == "layer" and seed == 0 and step % (steps // 5) == 0:
            found = batch_noise(model, list(islice(known.batches(size, seed), WATCHED)))
            noise.append((step, float(np.median([off for _, off in found.values()]))))
        loss = loss_of(model, batch)
        rule.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        rule.step()
        if step % EVERY == 0:
            losses.append((step, float(loss)))
    return Run(network, norm, size, seed, accuracy(model, kept), losses, noise)


def better(runs: list[Run], network: str, one: str, other: str, size: int | None = None) -> Any:
    """Return how much more accurate one norm is than another, run against run of one start."""
    of = {(r.norm, r.size, r.seed): r.accuracy for r in runs if r.network == network}
    pairs = sorted({(s, seed) for _, s, seed in of if size in (None, s)})
    return over_runs([100 * (of[one, s, seed] - of[other, s, seed]) for s, seed in pairs])


def table(runs: list[Run], network: str, sizes: tuple[int, ...]) -> str:
    """Write the accuracy of every norm at every batch size, and the noise that was watched."""
    own = [run for run in runs if run.network == network]
    lines = [f"{network + ', right in %':22}" + "".join(f"{f'batches of {size}':>20}" for size in sizes)]
    for norm in dict.fromkeys(run.norm for run in own):
        cells = [[100 * r.accuracy for r in own if (r.norm, r.size) == (norm, size)] for size in sizes]
        lines.append(f"  {norm:20}" + "".join(f"{written(over_runs(cell), '{:.1f}'):>20}" for cell in cells))
    for run in own:
        if run.noise:
            path = " ".join(f"{off:.2f}" for _, off in run.noise)
            lines.append(f"  noise of means (TID) while it learns, batches of {run.size}: {path}")
    return "\n".join(lines)


def picture(runs: list[Run]) -> Any:
    """Draw the losses while training, a panel for each network and batch size; averages over seeds."""
    points: dict[tuple[str, str, int, int], list[float]] = {}
    for run in runs:
        for step, loss in run.losses:
            points.setdefault((run.network, run.norm, run.size, step), []).append(loss)
    names = ("network", "norm", "size", "step", "loss")
    rows = [dict(zip(names, (*key, float(np.mean(found))), strict=True)) for key, found in points.items()]
    lines = alt.Chart(alt.Data(values=rows)).mark_line().encode(
        x=alt.X("step:Q", title="training step"), y=alt.Y("loss:Q", title="loss"),
        color=alt.Color("norm:N", title="norm", sort=NORMS),
    ).properties(width=230, height=150)  # fmt: skip
    facets = lines.facet(row=alt.Row("network:N", title=None), column=alt.Column("size:O", title="texts, or digits, a batch"))
    return facets.resolve_scale(y="independent")


def main() -> None:
    """Train everything, then compare the norms run against run."""
    args = options(__doc__, "mlp_rnn_transformer.png")
    sizes, seeds, steps = ((4, 64), 2, 10) if args.quick else ((4, 16, 64), 4, 150)
    runs = []
    for network, (_, load) in NETWORKS.items():
        data = load()
        norms = [norm for norm in NORMS if data.mask is not None or norm != "batch, masked"]
        plan = [(norm, size, seed) for norm in norms for size in sizes for seed in range(seeds)]
        runs += [train(network, norm, size, seed, steps, data) for norm, size, seed in plan]
    rows, says = [], []
    for network in NETWORKS:
        gain, lead = (better(runs, network, "layer", other) for other in ("none", "batch"))
        says.append(f"{network}: LayerNorm {written(gain, '{:+.1f}')} over no norm, {written(lead, '{:+.1f}')} over BatchNorm")
        claims = ((f"7 LayerNorm is better than BatchNorm in the {network}.", lead), (f"7 LayerNorm is better than no norm in the {network}.", gain))
        about = f"points of accuracy after {steps} steps, batches of {sizes[0]} to {sizes[-1]}, {seeds} seeds; holds over 0"
        rows += [Row(claim, about, written(number, "{:+.1f}"), verdict(number, 0.0)) for claim, number in claims]
    answer = "In points of accuracy, run against run of one start:\n" + "\n".join(says)
    numbers = [table(runs, network, sizes) for network in NETWORKS]
    for network in ("RNN", "Transformer"):
        leads = ", ".join(f"{size}: {written(better(runs, network, 'layer', 'batch', size), '{:+.1f}')}" for size in sizes)
        masked = written(better(runs, network, "batch, masked", "batch"), "{:+.1f}")
        numbers.append(f"{network}: LayerNorm over BatchNorm by size, {leads}; leaving padding out of BatchNorm: {masked}")
    show(args, answer, rows, "\n\n".join(numbers), picture(runs))


if __name__ == "__main__":
    main()
