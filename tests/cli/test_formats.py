"""The format of a result by the name of its file, and what a file is that is no result."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support import reports
from tests.support.command import ended, error_of


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    reports.minilm().to_json(tmp_path / "a.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMPARE = ("compare", "a.json", "a.json")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("out.json", "json"),
        ("OUT.JSON", "json"),
        ("out.jsonl", "jsonl"),
        ("out.csv", "csv"),
        ("out.md", "markdown"),
        ("out.txt", "table"),
        ("out", "table"),
        ("json", "table"),
    ],
)
def test_the_suffix_chooses_the_format(place: Path, name: str, format: str) -> None:
    ended([*COMPARE, "--format", format, "-o", "expected"])
    result = ended([*COMPARE, "-o", name])
    assert (result.exit_code, result.stderr) == (0, "")
    # The provenance, the last member, has the command.
    written, expected = (Path(path).read_text().partition('"provenance"')[0] for path in (name, "expected"))
    assert written == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "-o", "out.csv"], "'out.csv' ends as csv does, but json is written"),
        (["--format", "table", "-o", "out.json"], "'out.json' ends as json does, but table is written"),
        (["--format", "csv", "-o", "out.md"], "'out.md' ends as markdown does, but csv is written"),
    ],
)
def test_a_format_that_contradicts_the_suffix_is_said(place: Path, options: list[str], said: str) -> None:
    assert ended([*COMPARE, *options]).stderr == f"warning: --output {said}\n"
    assert ended([*COMPARE, *options, "-q"]).stderr == ""


def test_explain_follows_the_suffix(place: Path) -> None:
    assert ended(["explain", "agreement", "-o", "out.json"]).stderr == ""
    assert json.loads(Path("out.json").read_text())["entries"][0]["name"] == "agreement"
    assert "ends as csv does, but table is written" in ended(["explain", "agreement", "-o", "out.csv"]).stderr
    assert "ends as csv does, but json is written" in ended(["explain", "--schema", "-o", "out.csv"]).stderr


def write_kinds() -> dict[str, str]:
    """Write files that are no results; return what each is."""
    report = reports.minilm()
    save_file({"a": torch.ones(2)}, "weights")
    save_file({"a": torch.ones(2)}, "tensors", metadata={"schema": "normscope.tensors/1"})
    Path("damaged").write_bytes(Path("weights").read_bytes()[:20])
    for name, format in (("lines", "jsonl"), ("numbers", "csv"), ("marked", "markdown"), ("shown", "table")):
        ended([*COMPARE, "--format", format, "-o", name])
    Path("page").write_text("<!doctype html>\n<html>")
    Path("picture").write_text("<svg xmlns=''/>")
    Path("packed").write_bytes(gzip.compress(report.to_json().encode()))
    Path("pickle").write_bytes(b"\x80\x04\0\0")
    Path("empty").write_bytes(b" \n")
    return {
        "weights": "it is safetensors without a report;",
        "tensors": "it is safetensors of 'normscope.tensors/1';",
        "damaged": "it is not a complete safetensors file (",
        "lines": "it is JSON Lines;",
        "numbers": "it is CSV;",
        "marked": "it is Markdown;",
        "shown": "it is text that is not JSON, such as a table;",
        "page": "it is a page, HTML;",
        "picture": "it is a picture, SVG;",
        "packed": "it is compressed by gzip;",
        "pickle": "it is binary;",
        "empty": "it is empty;",
    }


def test_what_a_file_is_that_is_no_result(place: Path) -> None:
    for name, said in write_kinds().items():
        for command in (["report", name, "-o", "page.html"], ["compare", "a.json", name], ["merge", name]):
            assert f"cannot read {name!r} as a report: {said}" in error_of(command)
