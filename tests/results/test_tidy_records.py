"""Tidy tables of batches, swaps and claims: every number once, in a row of its own, under its keys."""

import csv
import io
import json
from typing import Any

import pandas as pd
import pytest

from normscope.results.tidy import csv_lines, json_lines, table
from normscope.results.tidy_records import LAYOUTS
from tests.results.test_json_schema import why
from tests.support import reports
from tests.support.command import ended

MAKERS: dict[str, Any] = {
    "batches": lambda: reports.batch_report(["a", "b"], momentum=0.1),
    "swap": lambda: reports.swap_report(fold=True, fits=True),
    "why": why,
}
# Keys that are numbers are columns, not rows.
KEYS = {"batch_size", "replaced"}


def numbers_below(part: Any, name: str = "") -> int:
    """How many known numbers a plain value holds, without those that are keys."""
    if isinstance(part, dict):
        return sum(numbers_below(value, key) for key, value in part.items())
    if isinstance(part, list):
        return sum(numbers_below(value, name) for value in part)
    return isinstance(part, int | float) and not isinstance(part, bool) and name not in KEYS


@pytest.mark.parametrize("name", MAKERS)
def test_every_known_number_has_one_row_that_nothing_else_has(name: str) -> None:
    result = MAKERS[name]()
    rows = list(csv.reader(io.StringIO("".join(csv_lines(result)))))
    columns = tuple(rows.pop(0))
    assert columns == table(result)[0]
    plain = result.to_dict()
    assert len(rows) == sum(numbers_below(plain[part]) for part in LAYOUTS[type(result)].parts)
    assert len({tuple(row[:-1]) for row in rows}) == len(rows)


def test_batches_stand_under_their_size_and_order() -> None:
    report = MAKERS["batches"]()
    frame = report.to_frame()
    noise = report.layers["a"].sizes[1]
    row = frame[
        (frame.layer == "a")
        & (frame["view"] == "sizes")
        & (frame.batch_size == noise.batch_size)
        & (frame.order == noise.order)
    ].set_index("statistic")["value"]
    assert row["tid.mean.mean"] == noise.tid.mean.mean
    assert row["running.tid.variance.max"] == noise.running.tid.variance.max
    positions = frame[(frame["view"] == "kept") & (frame.statistic == "positions")]
    assert positions["value"].tolist() == report.kept.positions.tolist()
    assert positions.position.tolist() == list(range(len(report.kept.positions)))


def test_swaps_stand_under_their_layer_or_step() -> None:
    report = MAKERS["swap"]()
    frame = report.to_frame().set_index(["view", "statistic"])["value"]
    assert frame.loc[[("all", "effect.hidden_cosine.mean")]].tolist() == [
        report.all_.effect.hidden_cosine.mean
    ]
    alone = [layer.effect.hidden_cosine.low for layer in report.layers.values()]
    assert frame.loc[[("effect", "hidden_cosine.low")]].tolist() == alone
    assert frame.loc[[("fold", "tolerance")]].tolist() == [report.fold.tolerance]
    steps = report.to_frame().query("view == 'cumulative' and statistic == 'effect.hidden_cosine.mean'")
    assert steps.replaced.tolist() == [step.replaced for step in report.cumulative]
    assert steps.layer.tolist() == [step.name for step in report.cumulative]


def test_claims_stand_with_their_evidence() -> None:
    frame = why().to_frame()
    numbers = frame[frame.statistic == "number.value"]
    assert numbers[["claim", "evidence", "value"]].to_numpy().tolist() == [["1a", "a", 1.0], ["1a", "b", 2.0]]
    assert frame[(frame["view"] == "claim") & (frame.statistic == "threshold")]["value"].tolist() == [0.25]


@pytest.mark.parametrize("name", MAKERS)
def test_a_line_of_json_is_a_layer_or_a_claim(name: str) -> None:
    result = MAKERS[name]()
    lines = [json.loads(line) for line in json_lines(result)]
    plain = result.to_dict()
    named = [{"layer": layer["name"], **layer} for layer in plain.get("layers", ())]
    assert lines == (named or plain["claims"])


@pytest.mark.parametrize("command", ["batches", "swap", "why"])
def test_the_commands_write_them(command: str) -> None:
    texts = ["The cat sat.", "It rained again.", "We went home.", "A dog came in."]
    given = [command, "demo", *texts, "--layer", "*.5.output.LayerNorm", "-q"]
    frame = pd.read_csv(io.StringIO(ended([*given, "--format", "csv"]).stdout))
    assert frame["value"].notna().all()
    assert frame.columns[-1] == "value"
    lines = ended([*given, "--format", "jsonl"]).stdout.splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) == (8 if command == "why" else 1)
