"""Datasets of a Hub as streams: a server on loopback answers the requests of the library `datasets`."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import GOOD_TOKEN, LINES, Hub, serve
from tests.support.preloaded import preloaded

datasets = pytest.importorskip("datasets")

ROWS = [{"text": f"{i} {LINES[i % 4]}", "title": "t", "number": i} for i in range(40)]
CARD = """---
configs:
- config_name: en
  data_files: en/*.jsonl
- config_name: de
  data_files: de/*.jsonl
---
"""
DRIVER = """
import json, sys, time
time.sleep = lambda seconds: None  # The library waits before it asks again.
from normscope.data.hub_dataset import read_dataset
from normscope.errors import NormscopeError
for name, options, most in json.load(sys.stdin):
    texts = []
    try:
        stream = read_dataset(name, **options)
        while len(texts) < most and (text := next(stream, None)) is not None:
            texts.append(text)
        print(json.dumps([texts, None]))
    except NormscopeError as error:
        print(json.dumps([texts, f"{error.exit_code} {error}"]))
"""


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of dataset repositories, by id."""
    root = tmp_path_factory.mktemp("repositories")
    write(root / "lines", "train.jsonl", ROWS)
    write(root / "lines", "test.jsonl", ROWS[:1])
    (root / "parquet" / "data").mkdir(parents=True)
    rows = datasets.Dataset.from_list(ROWS)
    rows.to_parquet(root / "parquet" / "data" / "train-00000-of-00001.parquet", batch_size=8)
    for number, language in enumerate(("en", "de")):
        write(root / "configs", f"{language}/part.jsonl", [{"text": language}] * (number + 1))
    (root / "configs" / "README.md").write_text(CARD, encoding="utf-8")
    (root / "script").mkdir()
    (root / "script" / "script.py").write_text(f"open({str(root / 'ran')!r}, 'w').close()\n")
    (root / "empty").mkdir()
    (root / "empty" / "README.md").write_text("# Nothing here\n")
    write(root / "dying", "train-00000-of-00002.jsonl", ROWS)
    write(root / "dying", "train-00001-of-00002.jsonl", ROWS)
    folders = {f"datasets/org/{folder.name}": folder for folder in root.iterdir()}
    return {**folders, "datasets/org/gated": root / "lines"}


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path]) -> Iterator[Hub]:
    gated = frozenset({"datasets/org/gated"})
    with serve(Hub(folders, gated, dying="train-00001-of-00002.jsonl")) as served:
        yield served


@pytest.fixture(scope="module")
def commands(hub: Hub) -> Iterator[Path]:
    """The preloaded commands, of whose processes the Hub is `hub`."""
    clean = "import os, datasets; os.environ.pop('HF_TOKEN', None)"
    with preloaded(clean, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", NO_PROXY="*") as commands:
        yield commands


def read(commands: Path, reads: list[tuple[str, dict[str, Any], int]], before: str = "") -> list[Any]:
    """Read one after the other in a process; return the texts of each, and its error with its code."""
    done = subprocess.run(
        [commands / "python", "-c", before + DRIVER],
        input=json.dumps(reads),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, ""), "the libraries say nothing of their own"
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}


def test_datasets_of_a_hub(commands: Path) -> None:
    want = [row["text"] for row in ROWS]
    reads: dict[tuple[str, str], Any] = {
        ("org/lines", "train"): want,
        ("org/lines", "test"): want[:1],
        ("org/parquet", ""): want,
        ("hf://datasets/org/parquet", "train"): want,
        ("org/configs:en", ""): ["en"],
        ("org/configs:de", "train"): ["de", "de"],
    }
    asked = [(name, {"split": split or None, "field": "text"}, 99) for name, split in reads]
    found = read(commands, [*asked, ("org/gated", {"split": "test", "token": GOOD_TOKEN}, 9)])
    assert found == [[texts, None] for texts in (*reads.values(), want[:1])]
    home = commands.parent  # HF_HOME
    assert not [*home.rglob("*.jsonl"), *home.rglob("*.parquet")], "nothing is downloaded"


def test_what_a_hub_refuses_is_said_in_a_line(commands: Path, hub: Hub, folders: dict[str, Path]) -> None:
    texts = [row["text"] for row in ROWS]
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("org/unknown", {}, r"1 cannot read the dataset 'org/unknown' \(.*doesn't exist on the Hub"),
        ("unknown", {"token": "hf_secret"}, r"1 cannot read the dataset 'unknown' \(.*doesn't exist"),
        (
            "org/configs",
            {},
            "2 dataset 'org/configs' has the configurations 'en', 'de'; expected one; name it",
        ),
        (
            "org/configs:fr",
            {},
            "1 dataset 'org/configs' has no configuration 'fr'; expected one of 'en', 'de'",
        ),
        ("org/lines:fr", {}, "1 dataset 'org/lines' has no configuration 'fr'; expected one of 'default'"),
        ("org/lines", {}, "2 dataset 'org/lines' has the splits 'train', 'test'; expected one; name it with"),
        (
            "org/lines",
            {"split": "dev"},
            "1 dataset 'org/lines' has no split 'dev'; expected one of 'train', '",
        ),
        (
            "org/parquet",
            {"field": "x"},
            "1 dataset 'org/parquet', row 1: no field 'x'; expected one of 'text',",
        ),
        ("org/parquet", {"field": "number"}, "1 dataset 'org/parquet', row 1: 'number' is int; expected a"),
        ("org/gated", {}, "1 dataset 'org/gated' is gated on the Hub; expected a token of an account"),
        ("org/gated", {"token": "hf_secret"}, "1 dataset 'org/gated' is gated on the Hub; expected a token"),
        ("org/script", {}, "1 dataset 'org/script' is made by a script of its own, which is never run; exp"),
        ("org/empty", {}, r"1 cannot read the dataset 'org/empty' \(.*doesn't contain any data files"),
        ("json", {}, r"1 cannot read the dataset 'json' \(that is a format of the library's\)"),
        (
            "org/dying",
            {"field": "text"},
            "1 dataset 'org/dying', row 41: Server Disconnected; .*",
        ),
    ]
    found = read(commands, [(name, options, 99) for name, options, _ in cases])
    hub.dead = False
    for (name, _, expected), (rows, said) in zip(cases, found, strict=True):
        assert re.match(expected, str(said)), said
        assert said.isprintable()
        assert said.count("; ") >= 2, said
        assert "hf_secret" not in said
        assert rows == (texts if name == "org/dying" else [])
    assert not (folders["datasets/org/lines"].parent / "ran").exists()


def test_a_hub_that_cannot_be_reached(commands: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port: refused at once
    before = f"import datasets\ndatasets.config.HF_ENDPOINT = {nobody!r}\n"
    ((texts, said),) = read(commands, [("org/lines", {}, 9)], before)
    assert texts == []
    assert said.startswith("1 cannot read the dataset 'org/lines' (Couldn't reach 'org/lines' on the Hub")
    assert said.endswith("check the name and the network")


def test_the_command_streams(commands: Path, hub: Hub) -> None:
    words = ["--dataset", "org/gated", "--split", "train", "--field", "text", "--limit", "20", "--json"]
    words += ["--layer", "embeddings.LayerNorm", "--token", GOOD_TOKEN]
    hub.requests.clear()
    done = subprocess.run(
        [commands / "normscope", "inspect", "demo", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["run"]["texts"] == 20
    assert any(request.endswith("/train.jsonl") for request in hub.requests)
