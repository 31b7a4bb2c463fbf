"""Print how verdicts of `why` depend on the random seed: python -m tests.benchmarks.seeds FILE [--seeds N].

FILE has a text a line. The seed chooses the kept texts where FILE has more than --samples, shuffles the
words of the nulls, and orders texts of equal length. A claim is decided by its tipping layer: the one with
which more than half of the layers are on one side of the threshold. The layer's margin is the distance of
its interval's end from the threshold, in half-widths of the interval: the claim is decided where it is over
0, undecided where it is under 0, and at its threshold where it is near 0.
"""

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import normscope
from normscope.analyses.why.claims import UNTESTABLE
from normscope.analyses.why.nulls import spaced
from normscope.data.batching import Batching
from normscope.results.why import Finding, Interval

_LOGARITHMIC = ("1b", "1c", "5", "6")


def scaled(claim: str, number: Interval) -> tuple[float, float]:
    """Return a number and the half-width of its interval, on the scale on which it is symmetric."""
    scale = math.log if claim in _LOGARITHMIC else float
    return scale(number.value), (scale(number.high) - scale(number.low)) / 2


def margin(finding: Finding) -> float:
    """Return the margin of the tipping layer; of both sides of the threshold, that of the nearer verdict."""
    first = finding.evidence[0]
    threshold = math.log(finding.threshold) if finding.id in _LOGARITHMIC else finding.threshold
    numbers = [scaled(finding.id, each.number) for each in first.layers] or [scaled(finding.id, first.number)]
    distances = sorted((value - threshold) / half for value, half in numbers)
    tipping = len(distances) // 2
    return max(distances[-1 - tipping], -distances[tipping]) - 1


def row(findings: Sequence[Finding]) -> list[str]:
    """Return one claim's line of the table, from its finding at each seed."""
    claim = findings[0].id
    counts = Counter(finding.verdict for finding in findings)
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in counts.most_common())
    if set(counts) == {UNTESTABLE}:
        return [claim, verdicts, "", "", "", ""]
    values, halves = zip(*(scaled(claim, each.evidence[0].number) for each in findings), strict=True)
    margins = [margin(finding) for finding in findings]
    middle = statistics.median(each.evidence[0].number.value for each in findings)
    return [
        claim,
        verdicts,
        f"{middle:.3g}",
        f"{statistics.stdev(values) / statistics.median(halves):.2f}",
        f"{statistics.fmean(margins):+.2f} ({min(margins):+.2f} to {max(margins):+.2f})",
        f"{statistics.stdev(margins):.2f}",
    ]


def table(runs: Iterable[Sequence[Finding]]) -> list[str]:
    """Return the lines of a Markdown table, one for each claim, from the findings of each seed."""
    head = ["claim", "verdicts", "number", "spread / half-width", "margin, mean (range)", "its spread"]
    rows = [row(findings) for findings in zip(*runs, strict=True)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.seeds", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--texts", type=int, help="use so many different texts, evenly spaced over FILE")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--beside", metavar="VISION_MODEL")
    parser.add_argument("--image", nargs="+", default=[])
    options = parser.parse_args()
    texts = list(dict.fromkeys(options.file.read_text(encoding="utf-8").splitlines()))
    texts = spaced(texts, options.texts or len(texts))
    runs = []
    for seed in range(options.seeds):
        report = normscope.why(
            "demo",
            texts,
            batching=Batching(max_length=options.max_length),
            samples=options.samples,
            seed=seed,
            beside=options.beside,
            images=options.image,
        )
        runs.append(report.claims)
        print(f"seed {seed}: " + ", ".join(f"{each.id} {each.verdict}" for each in report.claims), flush=True)
    print(f"{len(texts):,} texts, {report.kept_texts} kept, {options.seeds} seeds")
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
