"""The examples run, on a few texts."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from normscope.report import Report
from normscope.tidy import csv_lines, json_lines
from tests import models, reports

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_special_tokens(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(models.prose(60)), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / "special_tokens.py"), "demo", str(texts)]
    head, *rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert head.split() == ["what", "position", "explains", "with", "special", "tokens", "without"]
    shares = {name: (float(a.rstrip("%")), float(b.rstrip("%"))) for name, a, b in map(str.split, rows)}
    assert len(shares) == 13
    included, excluded = shares["encoder.layer.0.output.LayerNorm"]
    assert included > 50 > excluded


def test_freeze_layernorm() -> None:
    command = [sys.executable, str(EXAMPLES / "freeze_layernorm.py"), "--quick"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    demo, small, _, why, _, head, *rows = out.splitlines()
    assert demo == "demo: 0 of 2 norms can be folded"
    found = re.fullmatch(
        r"GPT-2: (\d) of 5 norms frozen and folded: loss (\S+) -> (\S+), (\S+)x .* (\S+)", small
    )
    assert found is not None
    assert int(found[1]) >= 3
    assert float(found[3]) < 1.02 * float(found[2])
    assert float(found[4]) > 0
    assert float(found[5]) < 1e-4
    assert why.startswith("not in demo: encoder.layer.5.attention.output.LayerNorm: read by the addition in")
    assert head.startswith("norms, the most tolerant first")
    assert sum("attn.c_attn" in row or "mlp.c_fc" in row for row in rows) + ("lm_head" in out) == int(
        found[1]
    )


def test_drift_gate(tmp_path: Path) -> None:
    same, other, baseline = (tmp_path / name for name in ("same.txt", "other.txt", "baseline.json"))
    same.write_text("\n".join(models.prose(20)), encoding="utf-8")
    other.write_text("a a a a a\nb b b\n", encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def gate(texts: Path) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(EXAMPLES / "drift_gate.sh"), "demo", str(texts), str(baseline)]
        environment = {**os.environ, "PATH": path}
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)

    assert (gate(same).returncode, gate(same).stderr) == (0, "")
    failed = gate(other)
    assert failed.returncode == 3
    assert "failed: encoder.layer.5.output.LayerNorm: bn_drift.mean" in failed.stderr
    assert "13 normalization layers, most moved first" in failed.stdout


@pytest.mark.parametrize("make", [reports.minilm, reports.mixed], ids=lambda make: make.__name__)
def test_tidy_tables(make: Callable[[], Report], tmp_path: Path) -> None:
    report = make()
    libraries = [name for name in ("pandas", "polars", "duckdb") if find_spec(name)]
    assert "pandas" in libraries
    explained = {name: layer.explained for name, layer in report.layers.items()}
    shares = {name: found.position.epsilon2 for name, found in explained.items() if found}
    most = sorted(shares, key=lambda name: -shares[name])[:3]
    lines = ask_tables(report, tmp_path)
    assert lines[-1] == f"{2 * len(libraries)} answers agree"
    for library in libraries:
        answers = [line.split(maxsplit=2)[1:] for line in lines if line.startswith(library)]
        assert [kind for kind, _ in answers] == ["csv", "jsonl"]
        for _, answer in answers:
            assert answer == "  ".join(f"{name} {shares[name]:.1%}" for name in most)


def test_tidy_tables_does_without_a_library(tmp_path: Path) -> None:
    for name in ("polars", "duckdb"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    lines = ask_tables(reports.minilm(), tmp_path)
    assert lines[2:] == [
        "polars  skipped: No module named polars",
        "duckdb  skipped: No module named duckdb",
        "2 answers agree",
    ]


def ask_tables(report: Report, folder: Path) -> list[str]:
    """Run the example on a report; what is in the folder is imported before what is installed."""
    for name, lines in (("run.csv", csv_lines), ("run.jsonl", json_lines)):
        (folder / name).write_text("".join(lines(report.layers)), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / "tidy_tables.py"), "run.csv", "run.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
