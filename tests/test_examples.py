"""The examples run, on a few texts."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from PIL import Image

import normscope
from normscope.analyses.why.vision import image_moments
from normscope.results.inspect import Report
from normscope.results.tidy import csv_lines, json_lines
from tests.support import models, reports
from tests.support.command import ended
from tests.support.digits import Digits

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_special_tokens(tmp_path: Path, preloaded_commands: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(models.prose(60)), encoding="utf-8")
    command = [str(preloaded_commands / "python"), str(EXAMPLES / "special_tokens.py"), "demo", str(texts)]
    head, *rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert head.split() == ["what", "position", "explains", "with", "special", "tokens", "without"]
    shares = {name: (float(a.rstrip("%")), float(b.rstrip("%"))) for name, a, b in map(str.split, rows)}
    assert len(shares) == 13
    included, excluded = shares["encoder.layer.0.output.LayerNorm"]
    assert included > 50 > excluded


def test_train_gpt2(tmp_path: Path, preloaded_commands: Path) -> None:
    picture, folder = tmp_path / "training.png", tmp_path / "runs"
    command = [str(preloaded_commands / "python"), str(EXAMPLES / "train_gpt2.py"), "--quick"]
    command += ["--picture", str(picture), "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    last = {norm: re.findall(rf"^{norm}: .*", done, re.M)[0] for norm in ("LayerNorm", "BatchNorm")}
    assert Image.open(picture).width > 600
    assert normscope.track(folder / "LayerNorm.jsonl").steps.tolist() == [*range(1, 21)]
    # In training, BatchNorm is what BatchNorm would give.
    agreement = {norm: float(line.rpartition(" ")[2]) for norm, line in last.items()}
    assert agreement["BatchNorm"] == pytest.approx(1, abs=1e-3)
    assert agreement["LayerNorm"] < 0.999
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for norm in last:
        (file,) = (folder / norm).rglob("events.out.*")
        points = events.EventAccumulator(str(file)).Reload().Scalars("train/norms/bn_gap_mean/median")
        assert [point.step for point in points] == [*range(2, 21)]
        assert all(0 < point.value < 10 for point in points)


ARTICLE = ("what_bn_pools", "variable_length", "mlp_rnn_transformer", "cnn_vs_nlp", "freeze_layernorm")
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?%?"
INTERVAL = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"
VERDICT = r"(holds|fails)( \(\d+ of \d+ norms\))?|undecided( \(\d+ of \d+ norms hold, \d+ fail\))?"


class Updated(NamedTuple):
    """What `update.py --quick` made: what each example printed, the page, and the folder of the pictures."""

    printed: dict[str, list[str]]
    page: str
    pictures: Path


@pytest.fixture(scope="module")
def updated(preloaded_commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Updated:
    """Run every example on the article's claims once, in its reduced form, and write a page's table."""
    folder = tmp_path_factory.mktemp("updated")
    page = folder / "README.md"
    page.write_text((EXAMPLES / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    command = [str(preloaded_commands / "python"), str(EXAMPLES / "update.py"), "--quick"]
    command += ["--readme", str(page), "--pictures", str(folder)]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, encoding="utf-8", env=environment
    )
    assert done.returncode == 0, done.stderr
    _, *parts = re.split(r"^== (\w+)\.py\n", done.stdout, flags=re.MULTILINE)
    printed = {name: text.strip().splitlines() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    return Updated(printed, page.read_text(encoding="utf-8"), folder)


def claim_rows(page: str) -> list[tuple[str, ...]]:
    """Return the rows of the table between the marks: claim, quantity, null, on, found, verdict, where."""
    table = page.partition("<!-- table: begin")[2].partition("<!-- table: end")[0]
    lines = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    return [tuple(line.strip("| ").split(" | ")) for line in lines]


def test_the_table_is_made_anew(updated: Updated) -> None:
    """The page as it stands has the rows that the code makes, no more and no less, in its order."""
    committed, made = (
        claim_rows((EXAMPLES / "README.md").read_text(encoding="utf-8")),
        claim_rows(updated.page),
    )
    assert [(row[0], row[6]) for row in committed] == [(row[0], row[6]) for row in made]
    assert {re.match(r"\d", row[0])[0] for row in made} == set("12345678")  # type: ignore[index]
    assert updated.page.count(", reduced |") == len(ARTICLE)
    kept = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for part, mark in ((0, "<!-- table: begin"), (2, "<!-- table: end")):
        assert updated.page.partition(mark)[part] == kept.partition(mark)[part]
    for claim, _, null, on, found, verdict, where in made:
        assert re.fullmatch(r"\[(\w+)\.py\]\(\1\.py\)", where)
        if claim.startswith("8") or verdict == "not testable here":
            assert claim[:2] in ("8 ", "4 ")
            continue
        assert "holds " in null
        assert re.match(r"\d+ (texts|seeds)", on)
        assert re.fullmatch(rf"{INTERVAL}( against {INTERVAL})?", found), found
        for numbers in re.finditer(INTERVAL, found):
            value, low, high = (float(number.rstrip("%")) for number in numbers.groups())
            assert low <= value <= high
        assert re.fullmatch(VERDICT, verdict), verdict


def test_the_page_tells_of_full_runs() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert ", reduced |" not in page
    for name in ARTICLE:
        assert re.search(rf"^\| \[{name}\.py\]\({name}\.py\) \| \d{{4}}-", page, re.MULTILINE)
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh") and path.name != "update.py" and not path.name.startswith("_"):
            assert f"[{path.name}]({path.name})" in page


@pytest.mark.parametrize("name", ARTICLE[:4])
def test_the_answer_comes_first_and_a_picture_is_drawn(updated: Updated, name: str) -> None:
    answer = " ".join(updated.printed[name][: updated.printed[name].index("")])
    assert re.search(INTERVAL, answer)
    assert updated.printed[name][-1] == f"picture: {updated.pictures / name}.png"
    picture = (updated.pictures / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_what_bn_pools_shows_the_columns(updated: Updated) -> None:
    lines = updated.printed["what_bn_pools"]
    assert "  0: 我 (I) | 今天 (today)" in lines
    assert "  3: 不错 (nice)" in lines
    (tokens,) = (line for line in lines if line.startswith("LN of a Transformer"))
    assert tokens.split()[-2:] == ["7", "384"]


def test_variable_length_counts(updated: Updated) -> None:
    rows = [line.split() for line in updated.printed["variable_length"] if re.match(r" +\d+ ", line)]
    assert [row[0] for row in rows] == ["0", "8", "16", "24"]
    random = [float(row[1]) for row in rows]
    assert random[0] == 8
    assert random == sorted(random, reverse=True)
    changes = ("the texts", "tokens shuffled", "tokens shuffled, positions at random")
    for name in (*changes, "the texts, special tokens counted"):
        (line,) = (e for e in updated.printed["variable_length"] if re.match(rf"  {name}  +\S", e))
        assert re.search(rf"{INTERVAL} +{NUMBER}$", line)


def test_the_control_experiment_has_every_norm(updated: Updated) -> None:
    text = "\n".join(updated.printed["mlp_rnn_transformer"])
    found = {
        part.split(",")[0]: part.split("\n")[1:] for part in text.split("\n\n") if ", right in %" in part
    }
    assert {name: [line[2:22].strip() for line in lines if "[" in line] for name, lines in found.items()} == {
        "MLP": ["none", "batch", "layer"],
        "RNN": ["none", "batch", "batch, masked", "layer"],
        "Transformer": ["none", "batch", "batch, masked", "layer"],
    }
    rates = [line.split()[-1] for lines in found.values() for line in lines if "[" in line]
    assert set(rates) <= {"0.0003", "0.001", "0.003", "0.01", "0.03"}


def test_cnn_vs_nlp_pools_what_it_says(updated: Updated) -> None:
    lines = updated.printed["cnn_vs_nlp"]
    pooled = [line.split()[4] for line in lines if line.startswith("CNN, norm")]
    assert pooled == ["1,024", "1,024", "256", "256"]


def test_freeze_layernorm(updated: Updated) -> None:
    out = updated.printed["freeze_layernorm"]
    demo, small, _, why, _, head, *rows = out
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
    into = sum("attn.c_attn" in row or "mlp.c_fc" in row for row in rows) + ("lm_head" in "".join(rows))
    assert into == int(found[1])


def test_digits_cnn(digits: Digits) -> None:
    model, images = digits.printed.splitlines()
    found = re.fullmatch(r"digits-cnn: 10 BatchNorms, test accuracy (\d+\.\d)% on 360 digits", model)
    assert found is not None
    assert float(found[1]) > 90
    assert images == "digits: 40 of those as PNG files"
    files, network_folder = sorted((digits.folder / "digits").iterdir()), digits.folder / "digits-cnn"
    assert len(files) == 40
    inspected = ended(["inspect", network_folder, "--image", *files, "--json"])
    layers = json.loads(inspected.stdout)["layers"]
    assert [layer["kind"] for layer in layers] == ["batchnorm"] * 10
    assert max(layer["own_error"] for layer in layers) < 1e-4
    moments = image_moments(network_folder, files).layers
    auto: Any = transformers
    network = auto.AutoModelForImageClassification.from_pretrained(network_folder).eval()
    processor = auto.AutoImageProcessor.from_pretrained(network_folder, backend="pil")
    right, name = 0, "resnet.embedder.embedder.normalization"
    maps: list[torch.Tensor] = []
    network.get_submodule(name).register_forward_pre_hook(lambda _, args: maps.append(args[0][0].double()))
    for file in files:
        with torch.no_grad():
            pixels = processor(images=[Image.open(file).convert("RGB")], return_tensors="pt")
            right += int(network(**pixels).logits.argmax()) == int(file.stem[-1])
    assert right > 34
    pixels = torch.stack(maps).flatten(2)  # (40, channels, 16 x 16)
    assert moments[name].count.flatten().tolist() == [256] * 40
    torch.testing.assert_close(moments[name].mean, pixels.mean(2), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(moments[name].variance(), pixels.var(2, correction=0), rtol=1e-4, atol=1e-5)


def test_notebook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a notebook, where `display` is a builtin; without one, `show` is print."""
    shown: list[str] = []
    monkeypatch.setattr("builtins.display", lambda result: shown.append(result._repr_html_()), raising=False)
    names = runpy.run_path(str(EXAMPLES / "notebook.py"))
    outline, report, comparison, batches = shown
    for html in (report, comparison, batches):
        assert html.count("<tr") > 13
        assert "encoder.layer.5.output.LayerNorm</td>" in html
    assert "encoder.layer.5.output.LayerNorm</td>" in outline
    said = capsys.readouterr().out
    assert f"the position explains {names['last'].explained.position.epsilon2:.1%}" in said
    assert "largest variance: features [" in said
    source = (EXAMPLES / "notebook.py").read_text(encoding="utf-8")
    assert source.count("# %%\n") == source.count("# %% [markdown]\n") == 7


def test_gate(tmp_path: Path, preloaded_commands: Path) -> None:
    same, other, baseline = (tmp_path / name for name in ("same.txt", "other.txt", "baseline.json"))
    same.write_text("\n".join(models.prose(20)), encoding="utf-8")
    other.write_text("a a a a a\nb b b\n", encoding="utf-8")
    path = f"{preloaded_commands}{os.pathsep}{os.environ['PATH']}"

    def gate(before: Path | str, texts: Path) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(EXAMPLES / "gate.sh"), str(before), "demo", str(texts)]
        environment = {**os.environ, "PATH": path}
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)

    asks = which("jq") is not None
    first = gate(baseline, same)
    assert (first.returncode, first.stderr) == (0, "")
    assert baseline.exists()
    assert ("not understood: 0 layers" in first.stdout) is asks
    assert ("agree less: 0 layers" in first.stdout) is asks
    failed = gate(baseline, other)
    assert failed.returncode == 3
    assert "failed: encoder.layer.5.output.LayerNorm: bn_drift.mean" in failed.stderr
    assert "13 normalization layers, most moved first" in failed.stdout
    assert (re.search(r"moved most: encoder\S+ by \d\.\d+", failed.stdout) is not None) is asks


@pytest.mark.slow
def test_gate_of_two_models(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a a a a a\nb b b\n", encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for after, code in (("demo", 0), ("no_such_model", 1)):
        command = ["bash", str(EXAMPLES / "gate.sh"), "demo", after, str(texts)]
        done = subprocess.run(command, check=False, env={**os.environ, "PATH": path}, capture_output=True)
        assert done.returncode == code


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
        (folder / name).write_text("".join(lines(report)), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / "tidy_tables.py"), "run.csv", "run.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUTF8": "1"}
    done = subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
