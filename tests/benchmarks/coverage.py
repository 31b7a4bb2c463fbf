"""Print how often the 95 % intervals of `why` cover: python -m tests.benchmarks.coverage FILE [--draws N].

FILE has a text a line. The model runs once over all of them, and once over texts of their words at random
("i.i.d."): these are the populations. Samples of N texts are drawn from a population without replacement,
and each number is computed with its interval. An interval covers if it holds the number's average over all
samples of N texts, its expectation: batches by length are another thing among 64 texts than among 512. A
sample of a finite population varies less, by sqrt(1 - N / population): the intervals are made as much
narrower.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import normscope
from normscope.analyses.why import analysis, nulls
from normscope.analyses.why.evidence import LayerRows
from normscope.analyses.why.measures import SIZE, LayerMeasures, Sampling, measured
from normscope.analyses.why.token_sample import KeptTokens
from normscope.data.media_files import Inputs
from normscope.engine.progress import Clock
from normscope.engine.session import Session
from normscope.results.why import Interval
from normscope.statistics.expected_noise import late_reach
from normscope.statistics.jackknife import difference, interval

SIZES = (64, 200, 512)
LAYERS = ("embeddings.LayerNorm", "*.2.output.LayerNorm", "*.5.output.LayerNorm")
Numbers = dict[str, Interval]


class Population:
    """The tokens of many texts at some layers, and samples of them."""

    def __init__(self, model: Any, texts: Sequence[str], max_length: int) -> None:
        choices = analysis._Choices(normscope.Batching(max_length=max_length), 0, 8 << 30, LAYERS, ())
        kept = KeptTokens(len(texts), choices.memory, 0, analysis._special(model))
        report = analysis._run(Session(model), Inputs(texts), choices, kept)
        self.lengths = torch.tensor([len(flags) for flags in kept.counted()])
        self.layers = list(analysis._rows(report, kept, list(report.layers)))
        self._ends = [
            torch.bincount(rows.text, minlength=len(self.lengths)).cumsum(0) for rows in self.layers
        ]

    def sample(self, texts: torch.Tensor) -> tuple[Sampling, list[LayerMeasures]]:
        """Measure the texts of these numbers."""
        sampling = Sampling.of(self.lengths[texts], seed=0)
        return sampling, [measured(self._part(i, texts), sampling) for i in range(len(self.layers))]

    def _part(self, layer: int, texts: torch.Tensor) -> LayerRows:
        rows, ends = self.layers[layer], self._ends[layer]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        chosen = torch.cat([torch.arange(int(starts[n]), int(ends[n])) for n in texts])
        label = torch.repeat_interleave(torch.arange(len(texts)), (ends - starts)[texts])
        parts = {name: getattr(rows, name)[chosen] for name in ("x", "position", "special")}
        return replace(rows, text=label, output=rows.output[texts], **parts)


def numbers(sampling: Sampling, layers: Sequence[LayerMeasures], null: Sequence[LayerMeasures]) -> Numbers:
    """Return the numbers that decide, as `findings` takes them, by claim and layer."""
    found: Numbers = {"1a": interval(late_reach(sampling.lengths, sampling.weights, SIZE), 1 / SIZE, 1.0)}
    for i, (layer, mixed) in enumerate(zip(layers, null, strict=True)):
        beyond = difference(layer.text - layer.position, mixed.text - mixed.position)
        found |= {f"2 {i}": interval(beyond), f"3 {i}": interval(difference(layer.text, mixed.text))}
        late = None if layer.late is None else layer.late[:, 0]
        for claim, values in (("1b", late), ("1c", layer.by_length)):
            if values is not None:
                found[f"{claim} {i}"] = interval(values, log=True)
        if layer.noise is not None:
            found[f"5 {i}"] = interval(layer.noise.samples, log=True)
            found[f"6 {i}"] = interval(layer.noise.excess, log=True)
    return found


def coverage(samples: Sequence[Numbers], share: float) -> dict[str, list[float]]:
    """Return the share of samples whose interval covers, by claim, for each layer."""
    rates: dict[str, list[float]] = {}
    for name in samples[0]:
        values = [found[name] for found in samples if name in found]
        logarithmic = name[:2] in ("1b", "1c", "5 ", "6 ")
        scale: Callable[[float], float] = math.log if logarithmic else float
        middle = statistics.fmean(scale(one.value) for one in values)
        covered = [
            abs(scale(one.value) - middle) <= math.sqrt(1 - share) * (scale(one.high) - scale(one.low)) / 2
            for one in values
        ]
        rates.setdefault(name.split()[0], []).append(statistics.fmean(covered))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coverage", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--max-length", type=int, default=64)
    options = parser.parse_args()
    texts = list(dict.fromkeys(options.file.read_text(encoding="utf-8").splitlines()))
    model = Session.open("demo", Clock(None)).loaded
    real = Population(model, texts, options.max_length)
    random = Population(model, nulls.shuffled(texts, texts, seed=1), options.max_length)
    print(
        f"{len(texts):,} texts, {options.draws} samples; least to largest coverage over {len(LAYERS)} layers"
    )
    generator = torch.Generator().manual_seed(0)
    for name, population in (("real", real), ("i.i.d.", random)):
        for size in options.sizes:
            samples = []
            for _ in range(options.draws):
                order = torch.randperm(len(population.lengths), generator=generator)
                others = torch.randperm(len(random.lengths), generator=generator)[
                    : min(size, nulls.NULL_TEXTS)
                ]
                samples.append(numbers(*population.sample(order[:size]), random.sample(others)[1]))
            rates = coverage(samples, size / len(population.lengths))
            cells = [f"{claim} {min(all_):.0%} to {max(all_):.0%}" for claim, all_ in sorted(rates.items())]
            print(f"{name:6} N = {size:3}  " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
