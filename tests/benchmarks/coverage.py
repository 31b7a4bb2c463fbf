"""Print how often the 95 % intervals of `why` cover: python -m tests.benchmarks.coverage FILE [--of CASE].

FILE has a text a line. The model runs once over all of them, and once over texts of their words at random
("iid"): these are the populations. Samples of N texts are drawn from a population without replacement,
and each number is computed with its interval. An interval covers if it holds the number's average over all
samples of N texts, its expectation: batches by length are another thing among 64 texts than among 512. A
sample of a finite population varies less, by sqrt(1 - N / population): its replicates are drawn in as much.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import normscope
from normscope.analyses.why import analysis, nulls, scale_effects
from normscope.analyses.why.evidence import LayerRows
from normscope.analyses.why.measures import SIZE, ExpectedNoise, LayerMeasures, Sampling, measured
from normscope.analyses.why.token_sample import KeptTokens
from normscope.analyses.why.vision import image_moments
from normscope.capture.recorder import Recorder
from normscope.data.media_files import Inputs
from normscope.engine.progress import Clock
from normscope.engine.session import Session, text_batches
from normscope.results.why import Interval
from normscope.statistics.expected_noise import late_reach
from normscope.statistics.jackknife import difference, groups_of, interval, quotient, replicates
from normscope.statistics.moments import Moments

SIZES = (64, 200, 512)
IMAGES = 100
LAYERS = ("embeddings.LayerNorm", "*.2.output.LayerNorm", "*.5.output.LayerNorm")
LOGARITHMIC = ("1b", "1c", "5", "6")
# The interval of each number, by its claim and layer.
Numbers = dict[tuple[str, str], Interval]


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

    def sample(self, texts: Tensor) -> "Sample":
        """Measure the texts of these numbers."""
        sampling = Sampling.of(self.lengths[texts], seed=0)
        layers = [measured(self._part(i, texts), sampling) for i in range(len(self.layers))]
        return Sample(sampling, layers, len(texts) / len(self.lengths))

    def _part(self, layer: int, texts: Tensor) -> LayerRows:
        rows, ends = self.layers[layer], self._ends[layer]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        chosen = torch.cat([torch.arange(int(starts[n]), int(ends[n])) for n in texts])
        label = torch.repeat_interleave(torch.arange(len(texts)), (ends - starts)[texts])
        parts = {name: getattr(rows, name)[chosen] for name in ("x", "position", "special")}
        return replace(rows, text=label, output=rows.output[texts], **parts)


@dataclass(frozen=True)
class Sample:
    """The measures of some texts, which are a `share` of their population."""

    sampling: Sampling
    layers: Sequence[LayerMeasures]
    share: float


def narrowed(values: Tensor, share: float) -> Tensor:
    """Draw replicates (R,) towards the first of `values`, for a sample that is a share of a population."""
    return values[0] + math.sqrt(1 - share) * (values - values[0])


def drawn(texts: int, size: int, run: int, generator: torch.Generator) -> Tensor:
    """Draw `size` of the numbers of texts, in runs of `run` neighbours."""
    starts = torch.randperm(texts // run, generator=generator)[: -(-size // run)] * run
    return (starts[:, None] + torch.arange(run)).flatten()[:size]


def reach_of(lengths: Tensor, share: float) -> Interval:
    """Return the number of claim 1a of texts of these lengths."""
    reach = late_reach(lengths, replicates(groups_of(len(lengths))), SIZE)
    return interval(narrowed(reach, share), 1 / SIZE, 1.0)


def lengths_alone(lengths: Tensor, size: int, run: int, generator: torch.Generator) -> Numbers:
    """Return the number of claim 1a of a sample: it takes no model, so that many samples are cheap."""
    sample = lengths[drawn(len(lengths), size, run, generator)]
    return {("1a", ""): reach_of(sample, size / len(lengths))}


def lengths_of(tokenizer: Any, texts: Sequence[str], max_length: int) -> Tensor:
    """Return how many tokens each text has, (N,)."""
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return torch.tensor([*map(len, ids)])


def texts_alone(
    population: Population, random: Population, size: int, run: int, generator: torch.Generator
) -> Numbers:
    """Return the numbers of claims 1 to 3, and the noise of text that claims 5 and 6 compare, of a sample."""
    sample = population.sample(drawn(len(population.lengths), size, run, generator))
    others = drawn(len(random.lengths), min(size, nulls.NULL_TEXTS), 1, generator)
    null, share = random.sample(others), sample.share
    numbers: Numbers = {("1a", ""): reach_of(sample.sampling.lengths, share)}
    for layer, mixed in zip(sample.layers, null.layers, strict=True):
        text, both = narrowed(layer.text, share), narrowed(layer.text - layer.position, share)
        less = narrowed(mixed.text, null.share), narrowed(mixed.text - mixed.position, null.share)
        numbers["3", layer.name] = interval(difference(text, less[0]))
        numbers["2", layer.name] = interval(difference(both, less[1]))
        ratios = {"1b": None if layer.late is None else layer.late[:, 0], "1c": layer.by_length}
        if layer.noise is not None:
            ratios |= {"5, text": layer.noise.samples, "6, text": layer.noise.excess}
        for claim, values in ratios.items():
            if values is not None:
                numbers[claim, layer.name] = interval(narrowed(values, share), log=True)
    return numbers


def beside_images(
    texts: dict[str, Moments], images: dict[str, Moments], size: int, run: int, generator: torch.Generator
) -> Numbers:
    """Return the numbers of claims 5 and 6 of a sample of texts and one of IMAGES images."""

    def noise(samples: Moments, chosen: Tensor) -> tuple[Tensor, Tensor]:
        found = ExpectedNoise.of_samples(samples.take(chosen), replicates(groups_of(len(chosen))))
        share = len(chosen) / len(samples.mean)
        return narrowed(found.samples, share), narrowed(found.excess, share)

    chosen = [
        drawn(len(next(iter(moments.values())).mean), number, length, generator)
        for moments, number, length in ((texts, size, run), (images, IMAGES, 1))
    ]
    text, image = (
        {name: noise(samples, numbers) for name, samples in moments.items()}
        for moments, numbers in zip((texts, images), chosen, strict=True)
    )
    return {
        (claim, f"{layer} / {other}"): interval(quotient(text[layer][i], image[other][i]), log=True)
        for i, claim in enumerate(("5", "6"))
        for layer in text
        for other in image
    }


def other_scales(
    model: Any, texts: Sequence[str], size: int, run: int, generator: torch.Generator
) -> Numbers:
    """Return the number of claim 4 of a sample, from runs of its own: nothing is measured beforehand."""
    sample = [texts[n] for n in drawn(len(texts), size, run, generator).sort().values]
    again = nulls.spaced(sample)
    shuffled = nulls.shuffled(again, sample, seed=int(torch.randint(1 << 30, (), generator=generator)))
    batching = normscope.Batching(max_length=scale_effects.LONGEST, special_tokens="exclude")

    def effects(chosen: Sequence[str]) -> dict[str, Tensor]:
        few = nulls.spaced(chosen, scale_effects.TEXTS)
        report = Session(model).measure(
            Recorder(model.model, layers=LAYERS), text_batches(model, few, batching)
        )
        return scale_effects.scale_effects(model, few, batching, report).difference()

    own, null = effects(again), effects(shuffled)
    # As `findings` does: both samples have their groups left out at once.
    return {("4", name): interval(own[name] - null[name]) for name in own}


def coverage(samples: Sequence[Numbers]) -> dict[str, list[float]]:
    """Return the share of samples whose interval covers, by claim, for each layer."""
    rates: dict[str, list[float]] = {}
    for claim, layer in samples[0]:
        numbers = [sample[claim, layer] for sample in samples if (claim, layer) in sample]
        scale: Callable[[float], float] = math.log if claim[:2].rstrip(",") in LOGARITHMIC else float
        middle = statistics.fmean(scale(number.value) for number in numbers)
        covered = [scale(number.low) <= middle <= scale(number.high) for number in numbers]
        rates.setdefault(claim, []).append(statistics.fmean(covered))
    return rates


def cases(options: argparse.Namespace, texts: Sequence[str]) -> dict[str, Callable[..., Numbers]]:
    """Return what draws a sample of a size in runs and measures it, by the name of the case."""
    model = Session.open("demo", Clock(None)).loaded
    random = nulls.shuffled(texts, texts, seed=1)
    if options.of == "lengths":
        return {
            name: partial(lengths_alone, lengths_of(model.tokenizer, each, options.max_length))
            for name, each in (("real", texts), ("iid", random))
        }
    if options.of == "scales":
        return {"real": partial(other_scales, model, texts), "iid": partial(other_scales, model, random)}
    real = Population(model, texts, options.max_length)
    if options.of == "images":
        by_text = {rows.name: rows.by_text() for rows in real.layers}
        layers = image_moments(options.beside, options.image).layers
        few = {name: layers[name] for name in nulls.spaced(list(layers), 3)}
        return {"real": partial(beside_images, by_text, few)}
    mixed = Population(model, random, options.max_length)
    return {"real": partial(texts_alone, real, mixed), "iid": partial(texts_alone, mixed, mixed)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coverage", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--of",
        choices=("lengths", "texts", "scales", "images"),
        default="texts",
        help="claim 1a (lengths), 1a to 3 (texts), 4 (scales), or 5 and 6 (images, with --beside)",
    )
    parser.add_argument("--population", nargs="+", choices=("real", "iid"), default=("real", "iid"))
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--run", type=int, nargs="+", default=[1], help="texts come in runs of so many neighbours"
    )
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--beside", metavar="VISION_MODEL")
    parser.add_argument("--image", nargs="+", default=[])
    options = parser.parse_args()
    texts = list(dict.fromkeys(options.file.read_text(encoding="utf-8").splitlines()))
    print(f"{len(texts):,} texts, {options.draws} samples; least to largest coverage over layers")
    generator = torch.Generator().manual_seed(0)
    for name, draw in cases(options, texts).items():
        for size, run in product(options.sizes, options.run) if name in options.population else ():
            rates = coverage([draw(size, run, generator) for _ in range(options.draws)])
            cells = [f"{claim} {min(all_):.0%} to {max(all_):.0%}" for claim, all_ in sorted(rates.items())]
            print(f"{name:4} N = {size:3}, runs of {run}  " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
