"""LayerNorm, BatchNorm or no norm in an MLP, an RNN and a Transformer, as in the article's experiment.

The same MLP (digits), GRU and Transformer (the next word of Python's documentation) learn with each norm.
Each norm takes the learning rate, of several, with which it is best on samples kept back for this choice,
with a seed of its own. Then all norms learn from the same starts and batches, seed by seed, and are scored
on other samples. One seed, which gives the starting weights and the order of the batches, is one observation;
norms are compared within a seed. The split into samples to learn, to choose and to score is always the same.

Not tried: other batch sizes, long training, deep or wide networks, warm-up, other data. Each interval is a
95% one by itself; among eight of them one may miss the truth.

Run: python examples/mlp_rnn_transformer.py [--quick] [--picture curves.png]     (two minutes)
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch

from _common import Row, lines, options, over_runs, show, verdict, written
from _data import Samples, digits, next_words
from _models import MLP, RNN, Transformer, accuracy, learn
from normscope.results.why import Interval

NETWORKS: dict[str, Any] = {
    "MLP": (MLP, digits),
    "RNN": (RNN, next_words),
    "Transformer": (Transformer, next_words),
}
NORMS = ("none", "batch", "batch, masked", "layer")
RATES = {"MLP": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "RNN": (3e-3, 1e-2, 3e-2), "Transformer": (3e-3, 1e-2, 3e-2)}
BATCH, EVERY, KEPT_BACK, CHOICE_SEED = 16, 10, 400, 1000


class Run(NamedTuple):
    """One training: its accuracy in % on samples kept back, and its losses by step."""

    network: str
    norm: str
    rate: float
    seed: int
    accuracy: float
    losses: list[tuple[int, float]]


def train(network: str, norm: str, rate: float, seed: int, steps: int, known: Samples, kept: Samples) -> Run:
    """Train one network on `known` samples and score it on those `kept` back."""
    torch.manual_seed(seed)
    model = NETWORKS[network][0](norm)
    rule = torch.optim.Adam(model.parameters(), lr=rate)
    losses = [
        (step, learn(model, rule, b)) for step, b in enumerate(islice(known.batches(BATCH, seed), steps))
    ]
    return Run(network, norm, rate, seed, 100 * accuracy(model, kept), losses[::EVERY])


def trained(network: str, seeds: int, steps: int) -> Iterator[Run]:
    """Choose a learning rate for each norm, then train with it."""
    data = NETWORKS[network][1]()
    known, kept = data.split(2 * KEPT_BACK)
    half = torch.arange(KEPT_BACK)
    choice, test = kept.take(half), kept.take(half + KEPT_BACK)
    for norm in NORMS if data.mask is not None else [norm for norm in NORMS if norm != "batch, masked"]:
        tries = [train(network, norm, rate, CHOICE_SEED, steps, known, choice) for rate in RATES[network]]
        best = max(tries, key=lambda run: run.accuracy).rate
        yield from (train(network, norm, best, seed, steps, known, test) for seed in range(seeds))


def lead(runs: list[Run], network: str, other: str) -> Interval:
    """Return how many points of accuracy LayerNorm is ahead of another norm, over pairs of one seed."""
    found = {(run.norm, run.seed): run.accuracy for run in runs if run.network == network}
    seeds = sorted({seed for _, seed in found})
    return over_runs([found["layer", seed] - found[other, seed] for seed in seeds])


def table(runs: list[Run], network: str) -> str:
    """Write the accuracy of every norm, and the learning rate that it took."""
    own = [run for run in runs if run.network == network]
    rows = [f"{network + ', right in %':22}{'average over seeds':>24}{'learning rate':>16}"]
    for norm in dict.fromkeys(run.norm for run in own):
        some = [run for run in own if run.norm == norm]
        right = written(over_runs([run.accuracy for run in some]), "{:.1f}")
        rows.append(f"  {norm:20}{right:>24}{some[0].rate:16g}")
    return "\n".join(rows)


def picture(runs: list[Run]) -> Any:
    """Draw the losses while training, a panel for each network; averages over seeds."""
    rows = [
        {"network": run.network, "norm": run.norm, "step": step, "loss": loss}
        for run in runs
        for step, loss in run.losses
    ]
    panels = lines(rows, "step, training step", "mean(loss), loss", "norm").properties(width=230, height=180)
    return panels.facet(column="network:N").resolve_scale(y="independent")


def main() -> None:
    """Train everything, then compare the norms run against run."""
    args = options(__doc__, "mlp_rnn_transformer.png")
    seeds, steps = (2, 2) if args.quick else (6, 240)
    runs = [run for network in NETWORKS for run in trained(network, seeds, steps)]
    null, sample = "as good: 0; holds when it is over 0", f"{seeds} seeds, paired"
    quantity = f"points of accuracy on {KEPT_BACK} samples, {steps} steps, batches of {BATCH}"
    others = {"batch": "BatchNorm", "batch, masked": "BatchNorm without padding", "none": "no norm"}
    rows = []
    for network in NETWORKS:
        for norm in dict.fromkeys(run.norm for run in runs if run.network == network and run.norm in others):
            ahead = lead(runs, network, norm)
            claim = f"7 LayerNorm is better than {others[norm]} in the {network}."
            rows.append(Row(claim, quantity, null, sample, written(ahead, "{:+.1f}"), verdict([ahead], 0.0)))
    answer = f"Of {len(rows)} claims for LayerNorm {sum(row.verdict == 'holds' for row in rows)} hold:\n"
    answer += "\n".join(f"{row.claim[2:-1]}: {row.found} points, {row.verdict}" for row in rows)
    show(args, answer, rows, "\n\n".join(table(runs, network) for network in NETWORKS), picture(runs))


main()
