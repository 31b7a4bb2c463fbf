"""Where results are from: date, command, versions, weights and texts, and where readers see it."""

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import normscope
from normscope.engine.provenance import sample_digest
from normscope.render.page.write import page
from normscope.render.provenance import provenance_facts
from normscope.results.provenance import Provenance, Versions, provenance_now
from tests.support import models, reports
from tests.support.command import ended

TEXTS = ["The cat sat.", " ", "It rained again, all day.", "The cat sat."]
DIGEST = hashlib.sha256("".join(f"{text}\n" for text in TEXTS).encode()).hexdigest()
KNOWN = Provenance(
    "2026-11-28T13:20:00+00:00",
    "normscope why demo",
    Versions("0.1", "3.11.7", "2.9.0", None),
    "c0ffee",
    None,
    1200,
    "0123456789abcdef" * 4,
    7,
)


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return models.demo()


RUNS: dict[str, Any] = {
    "inspect": normscope.inspect,
    "batches": normscope.batch_noise,
    "swap": normscope.swap,
    "why": normscope.why,
}


@pytest.mark.parametrize("command", RUNS)
def test_a_run_says_when_and_from_what(command: str, demo: tuple[Any, Any]) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    provenance = RUNS[command](demo[0], TEXTS, tokenizer=demo[1]).provenance
    assert before <= datetime.fromisoformat(provenance.date) <= datetime.now(timezone.utc)
    assert provenance.versions.normscope == normscope.__version__
    assert provenance.versions.torch == torch.__version__.partition("+")[0]
    assert provenance.versions.transformers == transformers.__version__
    assert (provenance.command, provenance.commit) == (None, None)
    assert provenance.weights_sample == sample_digest(demo[0])
    assert (provenance.texts_read, provenance.texts_sha256) == (4, DIGEST)
    assert provenance.seed == (None if command == "inspect" else 0)


def test_the_texts_are_those_that_were_read(demo: tuple[Any, Any]) -> None:
    def texts_of(**options: Any) -> tuple[Any, Any]:
        batching = normscope.Batching(**options)
        report = normscope.inspect(demo[0], TEXTS, tokenizer=demo[1], batching=batching)
        assert report.provenance is not None
        return report.provenance.texts_read, report.provenance.texts_sha256

    assert texts_of(limit=1) == (1, hashlib.sha256(b"The cat sat.\n").hexdigest())
    assert texts_of(unique=True) == (4, DIGEST)


def test_any_trained_tensor_changes_the_digest_of_the_weights() -> None:
    model = models.bert()
    digests = {sample_digest(model)}
    assert digests == {sample_digest(models.bert())}
    for _, values in model.named_parameters():
        with torch.no_grad():
            values.add_(1)
        digests.add(sample_digest(model))
    assert len(digests) == 1 + len(list(model.parameters()))


def test_a_watcher_and_a_merge_have_it_too(demo: tuple[Any, Any]) -> None:
    with normscope.watch(demo[0]) as watcher, torch.no_grad():
        demo[0](**demo[1](TEXTS, return_tensors="pt", padding=True))
    watched = watcher.report().provenance
    assert watched is not None
    assert (watched.texts_read, watched.texts_sha256) == (None, None)
    parts = [normscope.inspect(demo[0], TEXTS, tokenizer=demo[1], moments=True) for _ in range(2)]
    merged = normscope.merge(parts).provenance
    assert merged is not None
    assert (merged.texts_read, merged.texts_sha256) == (8, None)
    assert merged.weights_sample == sample_digest(demo[0])
    assert normscope.compare(*parts).provenance is not None


def test_results_that_differ_in_it_are_equal() -> None:
    report = reports.minilm()
    assert replace(report, provenance=KNOWN) == report
    assert replace(report, provenance=KNOWN, normscope="x") != report


def test_it_is_read_back_and_null_in_older_files() -> None:
    plain = replace(reports.minilm(), provenance=KNOWN).to_dict()
    assert normscope.Report.from_dict(plain).provenance == KNOWN
    del plain["provenance"]
    assert normscope.Report.from_dict(plain).provenance is None


def test_the_command_is_as_typed_without_secrets(tmp_path: Path) -> None:
    out = str(tmp_path / "out.json")
    for secret in (["--token", "hf_x"], ["--token=hf_x"]):
        run = ended(["inspect", "demo", "it's", *secret, "-v", "-o", out])
        report = normscope.read_report(out)
        assert report.provenance is not None
        said = report.provenance.command or ""
        assert said.startswith("normscope inspect demo 'it'\"'\"'s' --token")
        assert said.endswith(f"HIDDEN -v -o {out}")
        assert "hf_x" not in Path(out).read_text() + run.stderr
        assert f"provenance: {report.provenance.date}; normscope {normscope.__version__}; " in run.stderr
    assert "provenance" not in ended(["inspect", "demo", "a text", "-q", "-v"]).stderr


@pytest.mark.parametrize("command", [["layers", "demo"], ["inspect", "demo", "a text", "--dry-run"]])
def test_results_before_a_run_have_it(command: list[str]) -> None:
    run = ended([*command, "--json", "-v"])
    assert json.loads(run.stdout)["provenance"]["command"].startswith(f"normscope {command[0]} demo")
    assert "provenance: " in run.stderr


def test_the_facts_are_those_that_are_known() -> None:
    assert provenance_facts(KNOWN) == [
        "2026-11-28T13:20:00+00:00", "normscope 0.1", "python 3.11.7", "torch 2.9.0", "1,200 texts read",
        "commit c0ffee", "texts SHA-256 0123456789abcdef", "seed 7", "normscope why demo",
    ]  # fmt: skip
    assert "\x1b" not in "".join(provenance_facts(replace(KNOWN, command="normscope \x1b[31m")))
    long = provenance_facts(replace(KNOWN, command=f"normscope inspect {'a.png ' * 200}-q"))[-1]
    assert len(long) == 300
    assert long.startswith("normscope inspect a.png")
    assert long.endswith("a.png -q")


def test_the_page_shows_it() -> None:
    pytest.importorskip("altair")
    text = page([replace(reports.minilm(), provenance=KNOWN)])
    assert "texts SHA-256 0123456789abcdef" in text
    assert "texts SHA-256" not in page([reports.minilm()])


def test_the_date_of_now_is_utc() -> None:
    assert provenance_now().date.endswith("+00:00")
