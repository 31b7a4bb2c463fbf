"""Tidy data: every number of a report once, under its name, as pandas reads it; the tables as tensors."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner, Result

import normscope
from normscope.cli.app import app
from normscope.errors import ReportError
from normscope.results.glossary.lookup import ENTRIES, find_entries
from normscope.results.reading import read_report
from normscope.results.tidy import COLUMNS, csv_lines, json_lines
from tests.cli.test_command_line import Library, library  # noqa: F401 - a fixture
from tests.support import models, reports

MAKERS = [reports.minilm, reports.worded, reports.llama, reports.mixed, reports.hostile]


def table(report: Any) -> pd.DataFrame:
    text = io.StringIO("".join(csv_lines(report)))
    return pd.read_csv(text, keep_default_na=False, na_values=[""], float_precision="round_trip")


def numbers_below(part: Any) -> int:
    """How many known numbers a plain value holds."""
    if isinstance(part, dict):
        return sum(map(numbers_below, part.values()))
    if isinstance(part, list):
        return sum(map(numbers_below, part))
    return isinstance(part, int | float)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_known_number_has_one_row(make: Any) -> None:
    report = make()
    rows = list(csv.reader(io.StringIO("".join(csv_lines(report)), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert {len(row) for row in rows} == {6}
    assert len(rows) - 1 == sum(numbers_below(layer) for layer in report.to_dict()["layers"])
    assert len({tuple(row[:5]) for row in rows}) == len(rows)


def test_every_name_is_explained() -> None:
    for make in (reports.worded, reports.mixed):
        frame = table(make())
        for view, statistic in {*zip(frame["view"], frame["statistic"], strict=True)}:
            name = statistic if view == "layer" else f"{view}.{statistic}"
            assert name in ENTRIES or find_entries(name), name


def test_values_stand_where_they_belong() -> None:
    report = reports.minilm()
    frame = table(report)
    layer = report.layers[reports.MINILM[2]]
    assert layer.feature
    assert layer.position
    own = frame[frame["layer"] == layer.name]

    def column(view: str, statistic: str, axis: str) -> Any:
        rows = own[(own["view"] == view) & (own["statistic"] == statistic)]
        other = "position" if axis == "feature" else "feature"
        assert rows[other].isna().all()
        assert rows[axis].tolist() == list(range(len(rows)))
        return rows["value"].to_numpy()

    for (view, statistic, axis), want in {
        ("feature", "variance", "feature"): layer.feature.variance,
        ("position", "token_mean", "position"): layer.position.token_mean,
        ("position", "count", "position"): layer.position.count,
    }.items():
        np.testing.assert_allclose(column(view, statistic, axis), want, rtol=1e-15)
    one = own[(own["view"] == "token") & (own["statistic"] == "mean.std")]
    assert layer.token
    assert one["value"].tolist() == [layer.token.mean.std]
    assert one[["position", "feature"]].isna().all(axis=None)
    assert (
        own[(own["view"] == "layer") & (own["statistic"] == "own_error")]["value"].item() == layer.own_error
    )


def test_outliers_go_by_their_feature() -> None:
    report = reports.report([reports.layer("n", outliers=reports.standing_out(2))])
    frame = table(report)
    outliers = report.layers["n"].outliers
    assert outliers
    assert outliers.llm_int8
    found_at = frame[frame["view"] == "outliers"].set_index(["statistic"])
    share = found_at.loc["llm_int8.share"]
    assert share["feature"].tolist() == outliers.llm_int8.features.tolist()
    assert share["value"].tolist() == outliers.llm_int8.share.tolist()
    massive = found_at.loc["massive.positions"]
    assert massive["position"].tolist() == outliers.massive.positions.tolist()
    assert set(massive["value"]) == {1}


def test_pandas_reads_the_lines_and_the_layers_come_back() -> None:
    report = reports.mixed()
    text = "".join(json_lines(report))
    expected = [{"layer": layer["name"], **layer} for layer in report.to_dict()["layers"]]
    assert [json.loads(line) for line in text.splitlines()] == expected
    frame = pd.read_json(io.StringIO(text), lines=True)
    assert frame["name"].tolist() == list(report.layers)
    assert frame["features"].tolist() == [layer.features for layer in report.layers.values()]


def test_hostile_names_come_back() -> None:
    report = reports.hostile()
    frame = table(report)
    names = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in report.layers]
    assert frame["layer"].drop_duplicates().tolist() == names
    assert "".join(json_lines(report)).isascii()


# The tensors


def test_tensors_are_position_feature_tables(tmp_path: Path) -> None:
    model = models.bert().double()
    mask = (torch.arange(9) < torch.tensor([9, 6, 4])[:, None]).long()
    ids = torch.randint(0, 100, mask.shape, generator=torch.Generator().manual_seed(0))
    name = "bert.encoder.layer.1.output.LayerNorm"
    seen: list[Any] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].numpy()))
    with normscope.watch(model) as watcher, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    report = watcher.report(moments=True)
    normscope.write_tensors(report, tmp_path / "t")
    with safe_open(tmp_path / "t", framework="np") as file:
        header = file.metadata()
        tables = {part: file.get_tensor(f"{name}/{part}") for part in ("count", "mean", "variance")}
        assert len(file.keys()) == 3 * len(report.layers)
    for t in range(9):
        rows = seen[0][mask[:, t].bool().numpy(), t]
        assert tables["count"][t] == len(rows)
        np.testing.assert_allclose(tables["mean"][t], rows.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(tables["variance"][t], rows.var(0), rtol=1e-12, atol=1e-12)
    assert header["schema"] == "normscope.tensors/1"
    assert json.loads(header["model"]) == report.to_dict()["model"]
    assert json.loads(header["run"]) == report.to_dict()["run"]
    with pytest.raises(ReportError, match="no moments"):
        normscope.write_tensors(replace(report, moments=None), tmp_path / "t")


# The commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_inspect_writes_tidy_data(library: Library, tmp_path: Path) -> None:  # noqa: F811
    for format, lines in (("csv", csv_lines), ("jsonl", json_lines)):
        text = "".join(lines(library.report))
        assert run("inspect", "m", "a text", "--format", format).stdout == text
        done = run("inspect", "m", "a text", "--format", format, "-o", tmp_path / format)
        assert (done.exit_code, done.stdout) == (0, "")
        assert (tmp_path / format).read_text(encoding="utf-8") == text
        assert run("inspect", "m", "a text", "--json", "--format", format).exit_code == 2
    run("inspect", "m", "a text", "--layer", "*.0.*", "--format", "csv")
    assert list(library.calls[-1]["layers"]) == ["*.0.*"]


def test_the_commands_on_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = run(
        "inspect", "demo", "a text", "and more", "--tensors", "t", "--moments", "m", "--format", "csv", "-q"
    )
    report = read_report("m")
    assert out.stdout == "".join(csv_lines(report))
    assert run("merge", "m", "--format", "csv", "--tensors", "u").stdout == out.stdout
    with safe_open("t", framework="np") as one, safe_open("u", framework="np") as other:
        for name in one.keys():  # noqa: SIM118
            np.testing.assert_array_equal(one.get_tensor(name), other.get_tensor(name))
    comparison = normscope.compare("m", "m")
    assert run("compare", "m", "m", "--format", "csv").stdout == "".join(csv_lines(comparison))
    lines = run("compare", "m", "m", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["bn_drift"]["mean"] for line in lines] == [0.0] * 13
    assert not any(math.isnan(layer.bn_drift.mean) for layer in comparison.layers.values())


@pytest.mark.parametrize("format", ["csv", "jsonl", "json"])
def test_a_terminal_does_not_obey_names(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {
        name: replace(layer, name=name)
        for name, layer in zip(NAMES, MAKERS[0]().layers.values(), strict=False)
    }
    replace(reports.minilm(), layers=named).to_json(tmp_path / "r.json")
    command = ("compare", tmp_path / "r.json", tmp_path / "r.json", "--format", format, "-q")
    kept = run(*command).stdout
    monkeypatch.setattr("normscope.cli.output.Output.is_terminal", True)
    shown = run(*command).stdout
    assert all(c == "\n" or c.isprintable() for c in shown)
    if format == "csv":
        assert shown.splitlines()[1].startswith("\\x1b]0;x\\x07,")
        assert kept.splitlines()[1].startswith("\x1b]0;x\x07,")
    else:
        read = [json.loads(text.splitlines()[0]) for text in (shown, kept)]
        for result in read:
            result.pop("provenance", None)  # It has the time.
        assert read[0] == read[1]


NAMES = ("\x1b]0;x\x07", "\x9b2J", "\u202eabc")
