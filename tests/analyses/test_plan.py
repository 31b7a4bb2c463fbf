"""Estimates of a run's cost: counts and extrapolations, as lines and as JSON; only one batch is run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import normscope
from normscope.analyses.plan import SAMPLE, dry_run
from normscope.cli.app import app
from normscope.data.batching import Batching
from normscope.data.text_files import read_texts
from normscope.errors import TextError, UsageError
from normscope.models.loading import Loaded
from normscope.render.plan import duration, memory, render_plan
from normscope.results.plan import Corpus, RunPlan, Tables, TimedBatch
from tests.engine.test_runner import ERRORS, Tight
from tests.support import models, reports


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    model, tokenizer = Tight(10**9, ERRORS[0]), models.demo()[1]
    return Loaded(model, tokenizer, "tight", None, None, ())  # type: ignore[arg-type]


def test_a_small_corpus_is_counted(loaded: Loaded) -> None:
    texts = [*models.prose(50), " "]
    plan = dry_run(loaded, texts, batching=Batching(max_length=40))
    run = normscope.inspect(loaded, texts, batching=Batching(max_length=40)).run
    assert plan.corpus == Corpus(run.texts, run.tokens, True)
    assert plan.normalization_layers == 3
    assert plan.tables == Tables(40 * (3 * (72 * 8 + 1616) + 72 * 8), 40, 40, None)
    assert plan.flops == 2 * 2 * 8 * 8  # The linear layer of 8 by 8, twice.
    assert plan.batch.texts == 18
    assert 0 < plan.batch.seconds <= plan.expected_seconds


def test_a_large_file_is_estimated(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a few words of text\n" * (3 * SAMPLE))
    plan = dry_run(loaded, read_texts(files=[path]))
    corpus = plan.corpus
    assert not corpus.counted
    assert corpus.tokens is not None
    # No padding here: every batch takes its share of tokens.
    share = plan.batch.tokens / corpus.tokens
    assert plan.batch.seconds / plan.expected_seconds == pytest.approx(share, rel=1e-3)
    assert corpus.texts == pytest.approx(3 * SAMPLE, rel=0.05)
    assert corpus.tokens == pytest.approx(7 * 3 * SAMPLE, rel=0.05)
    limited = dry_run(loaded, read_texts(files=[path]), batching=Batching(limit=SAMPLE + 10)).corpus
    assert (limited.texts, limited.tokens) == (SAMPLE + 10, 7 * (SAMPLE + 10))


def test_it_is_of_the_layers_that_were_chosen(loaded: Loaded) -> None:
    assert dry_run(loaded, ["a"], layers=["first", "last"]).normalization_layers == 2
    assert dry_run(loaded, ["a"], exclude=["first"]).normalization_layers == 2


def test_a_long_pipe_is_of_unknown_size(loaded: Loaded) -> None:
    plan = dry_run(loaded, ("some words" for _ in range(SAMPLE + 1)))
    assert plan.corpus == Corpus(None, None, False)
    assert math.isnan(plan.expected_seconds)
    assert "of unknown size" in render_plan(plan)


def test_no_text_is_an_error(loaded: Loaded) -> None:
    with pytest.raises(TextError, match=r"no text to measure \(1 blank\)"):
        dry_run(loaded, [" "])
    with pytest.raises(UsageError, match="no normalization layer"):
        dry_run(loaded, ["a"], exclude=["*"])


def test_it_is_written_in_lines() -> None:
    tables, batch = Tables(2**30 - 2**20, 776, 1024, 512), TimedBatch(32, 900, 0.5)
    model = reports.report([]).model
    plan = RunPlan("0", model, 25, tables, Corpus(10**6, 2 * 10**7, False), batch, 1.7e8, 11111.0)
    lines = render_plan(plan).splitlines()
    assert "1020 MiB at most, for 1,024 positions in 776 rows: positions 0 to 511 alone" in lines[2]
    assert lines[3:] == [
        "corpus         1,000,000 texts, 20,000,000 tokens, estimated from a sample",
        "work           170 million floating-point operations a token",
        "timed batch    32 texts, 900 tokens in 0.500 s: 1800 tokens a second",
        "expected time  3.09 hours",
    ]
    assert [memory(size) for size in (512, 2048, 5 << 30)] == ["512 bytes", "2.00 KiB", "5.00 GiB"]
    assert [duration(s) for s in (0.5, 90, 86400 * 3)] == ["0.500 s", "1.50 minutes", "3.00 days"]


def test_units_are_chosen_of_the_rounded_amount() -> None:
    assert [duration(s) for s in (59.94, 59.97, 3599, 86399)] == [
        "59.9 s",
        "1.00 minutes",
        "1.00 hours",
        "1.00 days",
    ]
    assert [memory(size) for size in (1023, (1 << 20) - 1, (1 << 30) - 1)] == [
        "1020 bytes",
        "1020 KiB",
        "1020 MiB",
    ]


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["inspect", "demo", *words], prog_name="normscope")


def test_the_command_runs_nothing_else(tmp_path: Path) -> None:
    moments = tmp_path / "m.safetensors"
    result = run(
        "a text", "another", "--dry-run", "--json", "--moments", str(moments), "--table-memory", "32MiB"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    assert data["schema"] == "normscope.plan/1"
    assert data["corpus"] == {"texts": 2, "tokens": 7, "counted": True}
    assert data["tables"]["positions"] == 512
    assert data["tables"]["exact"] == 26
    assert not moments.exists()
    assert run("a text", "--dry-run").stdout.startswith("model          demo, BertModel, float32, cpu\n")


def test_wrong_usage_is_one_line() -> None:
    for words in (["a", "--format", "csv"], ["--image", "x.png"]):
        result = run(*words, "--dry-run")
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


def test_verbose_says_the_tables_before_the_run() -> None:
    result = run("a text", "-v", "--table-memory", "32MiB")
    assert result.stderr.startswith("tables: 31.")
    assert "for 512 positions in 81 rows: positions 0 to 25 alone, later ones in bins\n" in result.stderr
