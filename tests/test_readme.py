"""The README's commands are run, so that they stay true."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import normscope
from tests.support import models

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SENTENCES = models.prose(20)


def blocks(language: str, after: str = "") -> list[str]:
    part = README[README.index(after) :]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)


def pipelines() -> list[str]:
    return [line for line in blocks("sh", after="## In a pipeline")[0].splitlines() if line]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    lines = "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(SENTENCES))
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    rows = "\n".join(f'{i},"{text.replace(chr(34), "")}"' for i, text in enumerate(SENTENCES))
    (tmp_path / "corpus.csv").write_text(f"id,comment\n{rows}\n", encoding="utf-8")
    return tmp_path


def test_there_are_exactly_two_commands_to_set_up_and_run() -> None:
    commands = [block.strip() for block in blocks("sh") if "-m venv" in block]
    assert len(commands) == 2
    assert "pip install '.[demo]' && normscope inspect demo " in commands[0]
    assert commands[1].endswith("pip install -e '.[test]' && pytest -n auto")


def test_the_main_command_runs(corpus: Path) -> None:
    command = blocks("sh", after="<!-- ci: main -->")[0].split(" && ")[-1]
    assert "13 normalization layers, all layernorm" in shell(command, corpus)


@pytest.mark.skipif(shutil.which("jq") is None, reason="the pipelines of the README use jq")
@pytest.mark.parametrize("number", range(len(pipelines())))
def test_pipelines_run(number: int, corpus: Path) -> None:
    command = pipelines()[number]
    out = shell(f"set -o pipefail; {command}", corpus)
    if " -o " in command:
        assert json.loads((corpus / "report.json").read_text())["run"]["texts"] == 20
    elif "report.md" in command:
        assert (corpus / "report.md").read_text(encoding="utf-8").count("| --") > 2
    elif "@tsv" in command:
        assert len(out.splitlines()) == 13
    else:
        assert out == "true\n"


def shell(command: str, folder: Path) -> str:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "model": models.bert(),
        "loader": [{"input_ids": torch.ones(2, 5).long()}],
        "MyNorm": type("MyNorm", (torch.nn.Identity,), {}),
    }
    for block in blocks("python", after="## In Python"):
        exec(block, names)
    assert names["same"].model.id == "demo"
    assert names["report"].run.tokens == 10
    with normscope.watch(names["MyNorm"]()) as watcher:  # a name that is found now
        assert len(watcher.captures) == 1


def test_the_output_shown_is_what_comes_out(corpus: Path) -> None:
    """Every layer, column and line of the legend; the numbers depend on the Python that the text is from."""
    shown = words(blocks("", after="## What it shows")[0])
    printed = words(shell("normscope inspect demo -f corpus.txt --max-length 32 --details", corpus))
    assert {"embeddings", "attention", "agreement", "distance", "average"} <= shown
    assert shown <= printed


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]{3,}", text))
