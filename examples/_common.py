"""Shared parts of the examples: command line, intervals, verdicts, rows of README.md's table, pictures."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from scipy.stats import t as student

from normscope.analyses.why.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, sides
from normscope.analyses.why.scale_effects import TEXTS
from normscope.render.page.vega import ON_PAPER
from normscope.results.why import Finding, Interval, WhyReport


@dataclass(frozen=True)
class Row:
    """One row of the table; `null` has the rule, too, and `sample` says how many texts or seeds there are."""

    claim: str
    quantity: str
    null: str
    sample: str
    found: str
    verdict: str


def options(about: str | None, picture: str) -> argparse.Namespace:
    """Read the options that every example has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a reduced form, in seconds, that proves nothing"
    )
    parser.add_argument("--picture", type=Path, default=Path(picture), help=f"picture file: {picture}")
    parser.add_argument("--rows", type=Path, help="also write the rows of the table, as JSON")
    return parser.parse_args()


def over_runs(values: Sequence[float], *, log: bool = False) -> Interval:
    """Return the mean of independent runs, for ratios with `log`, and its 95 % interval (Student's t)."""
    known, runs = np.log(values) if log else np.asarray(values), len(values)
    half = float(student.ppf(0.975, runs - 1) * np.std(known, ddof=1) / runs**0.5)
    ends = (float(np.mean(known)) + part for part in (0.0, -half, half))
    return Interval(*(math.exp(end) if log else end for end in ends))


def verdict(numbers: Sequence[Interval], threshold: float) -> str:
    """Return holds if most intervals are above a threshold, fails if most are below, else undecided."""
    return counted_verdict(*sides(numbers, threshold), len(numbers))


def counted_verdict(holding: int, failing: int, norms: int) -> str:
    """Return the verdict from the numbers of norms that hold and fail; with several norms, it shows them."""
    if 2 * max(holding, failing) <= norms:
        counts = f"{holding} of {norms} norms hold, {failing} fail"
        return UNDECIDED if norms == 1 else f"{UNDECIDED} ({counts})"
    word = HOLDS if holding > failing else FAILS
    return word if norms == 1 else f"{word} ({max(holding, failing)} of {norms} norms)"


def written(number: Interval, unit: str = "{:.3g}") -> str:
    """Write a number and its interval, where it has one, all in one unit."""
    if math.isnan(number.low):
        return unit.format(number.value)
    value, low, high = (unit.format(part) for part in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


def row(report: WhyReport, finding: Finding, unit: str = "{:.3g}") -> Row:
    """Return the row of a claim of `normscope.why`."""
    source = "(ours) " if finding.source == "normscope" else ""
    claim, null = f"{finding.id} {source}{finding.claim}", f"{finding.null}; {finding.rule}"
    sample = f"{report.kept_texts} texts"
    decided = next((each for each in finding.evidence if each.name == finding.decided_by), None)
    if decided is None:
        return Row(claim, finding.quantity, null, sample, "-", finding.verdict)
    if "shuffled" in finding.null:
        sample += f", {report.null_texts} of shuffled words"
    if finding.id == "4":
        sample = f"{min(report.null_texts, TEXTS)} texts, once more with shuffled words"
    above, below = finding.layers_above, finding.layers_below
    side = next(each.side for each in CLAIMS if each.id == finding.id)
    sides = (above, below) if side == "above" else (below, above)
    counts = counted_verdict(*sides, max(1, len(decided.layers)))
    return Row(claim, finding.quantity, null, sample, written(decided.number, unit), counts)


def chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Begin a chart of these rows."""
    return alt.Chart(alt.Data(values=list(rows)))  # type: ignore[no-untyped-call]


def lines(
    rows: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    colour: str,
    title: str = "",
    log: bool = False,
    **more: Any,
) -> Any:
    """Draw lines; x and y are columns of the rows and, after a comma, their titles."""
    (x, about_x), (y, about_y) = (
        (name, said.strip()) for name, _, said in (x.partition(","), y.partition(","))
    )
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale()
    order = list(dict.fromkeys(row[colour] for row in rows))
    drawn = chart(rows).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=12)).encode(
        x=alt.X(f"{x}:Q", title=about_x, scale=scale), y=alt.Y(f"{y}:Q", title=about_y, scale=scale),
        color=alt.Color(f"{colour}:N", title=colour, sort=order), **more,
    )  # fmt: skip
    return drawn.properties(width=260, height=220, title=title)


def show(args: argparse.Namespace, answer: str, rows: Sequence[Row], numbers: str, picture: Any) -> None:
    """Print the answer first, then the numbers; write the picture, and with --rows the rows."""
    print(f"{answer}\n\n{numbers}\n")
    picture.configure(**ON_PAPER).save(args.picture, scale_factor=2)
    print(f"picture: {args.picture}")
    if args.rows:
        args.rows.write_text(json.dumps([asdict(each) for each in rows]), encoding="utf-8")
