"""What the examples share: a command line, intervals, rows for the table in README.md, and pictures."""

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

from normscope.render.page.vega import ON_PAPER
from normscope.results.why import Finding, Interval


@dataclass(frozen=True)
class Row:
    """One row of the table: a claim, what was measured of it, what came out, and the verdict."""

    claim: str
    measured: str
    found: str
    verdict: str


def options(about: str | None, picture: str) -> argparse.Namespace:
    """Read the options that every example has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a reduced form, in seconds")
    parser.add_argument("--picture", type=Path, default=Path(picture), help=f"where it goes: {picture}")
    parser.add_argument("--rows", type=Path, help="also write the rows of the table, as JSON")
    return parser.parse_args()


def over_runs(values: Sequence[float]) -> Interval:
    """Return the mean of independent runs with its 95 % interval (Student's t)."""
    mean, runs = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, runs - 1) * np.std(values, ddof=1) / runs**0.5)
    return Interval(mean, mean - half, mean + half)


def verdict(number: Interval, above: float) -> str:
    """Say whether the whole interval is above a limit: holds, fails, or undecided."""
    return "holds" if number.low > above else "fails" if number.high < above else "undecided"


def written(number: Interval, unit: str = "{:.3g}") -> str:
    """Write a number and its interval, where it has one, all in one unit."""
    if math.isnan(number.low):
        return unit.format(number.value)
    value, low, high = (unit.format(part) for part in (number.value, number.low, number.high))
    return f"{value} [{low}, {high}]"


def row(finding: Finding, unit: str = "{:.3g}") -> Row:
    """Return the row of a claim that `normscope.why` decided."""
    number = next(each.number for each in finding.evidence if each.name == finding.decided_by)
    measured = f"{finding.decided_by}; {finding.rule}"
    return Row(f"{finding.id} {finding.claim}", measured, written(number, unit), finding.verdict)


def chart(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Begin a chart of such rows."""
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
    """Draw lines; x and y are columns of the rows and, after a comma, what is written for them."""
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
    """Print the answer first, then the numbers; write the picture, and the rows if they are wanted."""
    print(f"{answer}\n\n{numbers}\n")
    picture.configure(**ON_PAPER).save(args.picture, scale_factor=2)
    print(f"picture: {args.picture}")
    if args.rows:
        args.rows.write_text(json.dumps([asdict(each) for each in rows]), encoding="utf-8")
