"""Bad inputs, found in real use or by fuzzing: one clear line, and never half a file."""

import gzip
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import normscope
from normscope.data.batching import Batches, Batching
from normscope.data.text_files import read_texts
from normscope.errors import ReportError
from normscope.results.reading import read_report
from normscope.statistics.digests import signed
from normscope.statistics.token_identity import TokenMoments
from tests.support import reports
from tests.support.command import ended, error_of, left_in
from tests.support.hub import COMMIT, LINES, edit_config, fill_cache, save_bert, word_tokenizer

EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("saved") / "bert")


@pytest.fixture
def bert(saved: Path, tmp_path: Path) -> Path:
    """A fresh copy of a tiny model's folder, to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "bert"))


def spoil(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def measured(folder: Path, *texts: str) -> normscope.Report:
    out = folder / "out.json"
    ended(["inspect", folder, *texts, "--json", "-o", out, "-q"])
    return read_report(out)


@pytest.fixture(scope="module")
def moments(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moments") / "good.safetensors"
    ended(["inspect", saved, *LINES, "--moments", path, "-q"])
    return path


# Activations


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tokens_that_are_not_finite_are_left_out_and_counted(bert: Path, value: float) -> None:
    cat = word_tokenizer().convert_tokens_to_ids("cat")
    spoil(bert, lambda tensors: tensors[EMBEDDINGS][cat].fill_(value))
    first, second, *_ = measured(bert, *LINES).layers.values()
    assert first.nonfinite == 1
    assert second.nonfinite == len(["[CLS]", "the", "cat", "sat", "on", "the", "mat", "[SEP]"]), (
        "attention spreads it"
    )
    assert first.feature is not None
    assert bool(torch.tensor(first.feature.variance).isfinite().all())


def test_a_layer_without_a_finite_input_is_null_and_named(bert: Path) -> None:
    name = "bert.encoder.layer.0.attention.output.dense.weight"
    spoil(bert, lambda tensors: tensors[name].fill_(float("nan")))
    report = measured(bert, "the cat")
    first, second, *_ = report.layers.values()
    assert (first.nonfinite, first.count) == (0, 4)
    assert (second.nonfinite, second.count, second.feature, second.agreement) == (4, 0, None, None)
    assert f"{second.name}: all 4 tokens with NaN or infinity were left out" in report.warnings


def test_a_token_whose_output_overflows_does_not_hide_the_formula(bert: Path) -> None:
    cat = word_tokenizer().convert_tokens_to_ids("cat")
    spoil(bert, lambda tensors: tensors[EMBEDDINGS][cat].copy_(torch.linspace(-1e20, 1e20, 8)))
    first = next(iter(measured(bert, *LINES).layers.values()))
    assert (first.kind, first.nonfinite) == ("layernorm", 0)
    assert first.own_error < 1e-5


# Models


def test_ids_beyond_the_embedding(bert: Path) -> None:
    edit_config(bert, vocab_size=12)

    def cut(tensors: dict[str, Any]) -> None:
        vocabulary = len(word_tokenizer())
        for name in [name for name, value in tensors.items() if len(value) == vocabulary]:
            tensors[name] = tensors[name][:12].clone()

    spoil(bert, cut)
    assert "has no embedding for a token's id or position" in error_of(["inspect", bert, *LINES])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"vocab_size": 10**9}, "describes 9,000,001,576 weights"),
        ({"hidden_size": 12}, "config.json says [12]"),
        ({"vocab_size": 500}, "config.json says [500"),
    ],
)
def test_a_configuration_that_lies_about_sizes(bert: Path, changes: dict[str, int], words: str) -> None:
    edit_config(bert, **changes)
    assert words in error_of(["inspect", bert, "the cat"])


def test_a_wide_layer_is_listed_without_memory_for_it(bert: Path) -> None:
    edit_config(bert, hidden_size=2 * 10**7)
    assert ended(["layers", bert, "--json"]).exit_code == 0


def test_layers_that_the_configuration_leaves_out_are_named(bert: Path) -> None:
    edit_config(bert, num_hidden_layers=1)
    report = measured(bert, "the cat")
    (warning,) = (note for note in report.warnings if "no layer" in note)
    assert "bert.encoder.layer.1.attention.output.LayerNorm.bias" in warning


def test_a_truncated_download(saved: Path, tmp_path: Path) -> None:
    fill_cache(tmp_path, "some/bert", saved)
    weights = tmp_path / "models--some--bert" / "snapshots" / COMMIT / "model.safetensors"
    arguments = ["inspect", "some/bert", "the cat", "--cache-dir", tmp_path, "--local-files-only"]
    assert ended(arguments).exit_code == 0
    blob = weights.resolve()
    os.truncate(blob, 1000)
    assert "cannot read the weights" in error_of(arguments)
    blob.rename(f"{blob}.incomplete")
    weights.unlink(missing_ok=True)
    assert "no weights of" in error_of(arguments)


# Texts


def test_a_text_of_a_million_characters_is_tokenised_as_far_as_it_is_used() -> None:
    tokenizer = word_tokenizer()
    seen: list[int] = []
    whole = " ".join(LINES * 12000)
    assert len(whole) > 10**6

    def spying(texts: Any, **options: Any) -> Any:
        seen.extend(map(len, texts if isinstance(texts, list) else [texts]))
        return tokenizer(texts, **options)

    class Spy:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        __call__ = staticmethod(spying)

    spy: Any = Spy()
    batches = Batches([whole, LINES[0]], spy, Batching(order="given"), max_length=32)
    (batch,) = batches
    assert max(seen) < 10**4
    expected = tokenizer(whole[:2000], truncation=True, max_length=32)["input_ids"]
    assert batch.inputs["input_ids"][0].tolist() == expected
    assert batches.truncated == 1


def test_a_long_text_that_begins_with_blanks_is_not_cut_short() -> None:
    text = " " * 5000 + " ".join(LINES * 20)
    (batch,) = Batches([text], word_tokenizer(), Batching(), max_length=32)
    expected = word_tokenizer()(text, truncation=True, max_length=32)["input_ids"]
    assert batch.inputs["input_ids"][0].tolist() == expected
    assert len(expected) == 32


def test_input_that_never_ends_is_read_to_the_limit(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writer, "wb", buffering=0) as stream:
            while True:
                stream.write(b"the cat\n" * 100)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        texts = read_texts(["-"])
        report = normscope.inspect(str(saved), texts, batching=Batching(limit=5))
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert report.run.texts == 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"text\rthe cat\ra dog\r", "(CR) outside of quotes"),
        ("a.csv", "text\nthe cat\n".encode("utf-16"), "NUL byte"),
        ("a.jsonl", b'{"text": NaN}\n', "the text is float"),
        ("a.jsonl", b'"\\ud800"\n', "half a UTF-16 pair"),
        ("a.jsonl.gz", gzip.compress(b"[" * 100_000, mtime=0), "not JSON"),
        ("a.txt.gz", gzip.compress(b"the cat\n" * 1000, mtime=0)[:-9], "whole gzip file"),
        ("a.txt", b"\n" * 100_000, "100000 blank"),
    ],
)
def test_files_that_hold_no_texts(saved: Path, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in error_of(["inspect", saved, "-f", tmp_path / name])


# Places to write to


@pytest.mark.parametrize("option", ["-o", "--moments", "--tensors"])
def test_a_link_to_itself_is_no_place(saved: Path, tmp_path: Path, option: str) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert error_of(["inspect", saved, "the cat", option, loop]).startswith("cannot write ")
    assert left_in(tmp_path) == ["loop"]


@pytest.mark.parametrize("option", ["-o", "--moments", "--tensors"])
def test_a_disk_that_fills_up_leaves_nothing(saved: Path, tmp_path: Path, option: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = ["inspect", saved, *LINES, "--json", option, tmp_path / "out"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        result = ended(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.exit_code == 1
    assert "File too large" in result.stderr
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("failing", ["moments", "tensors"])
def test_a_result_that_cannot_be_written_costs_no_other(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Its folder was deleted after the first check."""

    def fail(*_given: object) -> None:
        raise ReportError(f"cannot write {failing}: it is gone; name another")

    module = {"moments": "moments_file", "tensors": "position_tables_file"}[failing]
    monkeypatch.setattr(f"normscope.statistics.{module}.write_{failing}", fail)
    files = [
        "--moments",
        tmp_path / "moments",
        "--tensors",
        tmp_path / "tensors",
        "-o",
        tmp_path / "out.json",
    ]
    result = ended(["inspect", saved, *LINES, "--json", *files])
    assert result.exit_code == 1
    assert f"error: cannot write {failing}: it is gone" in result.stderr
    assert read_report(tmp_path / "out.json").run.texts == len(LINES)
    assert left_in(tmp_path) == sorted({"moments", "tensors", "out.json"} - {failing})


def test_a_calibration_that_cannot_be_saved_does_not_cost_the_report(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: object) -> None:
        raise ReportError("cannot write it: it is gone; name another")

    monkeypatch.setattr(normscope.Calibration, "save", fail)
    out = tmp_path / "out.json"
    texts = [f"{line} {end}" for line in LINES for end in ("the cat", "a dog", "it")]
    result = ended(["swap", saved, *texts, "--save", tmp_path, "--json", "-o", out])
    assert (result.exit_code, result.stderr.splitlines()[-1][:23]) == (1, "error: cannot write it:")
    assert json.loads(out.read_text())["schema"] == "normscope.swap/1"


def test_two_runs_that_write_one_file(tmp_path: Path) -> None:
    both = [reports.minilm(), reports.llama()]
    path = tmp_path / "out.json"
    threads = [threading.Thread(target=lambda r=r: [r.to_json(path) for _ in range(10)]) for r in both]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert read_report(path).model.id in {report.model.id for report in both}
    assert left_in(tmp_path) == ["out.json"]


def test_a_calibration_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    (folder / "normscope-calibration.safetensors").mkdir(parents=True)
    report = reports.minilm()
    with pytest.raises(ReportError, match="it is not a file; name a file"):
        normscope.Calibration.of_report(report).save(folder)
    assert left_in(folder) == ["normscope-calibration.safetensors"]


# Reports and moments


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"schema": NaN}', "[]", '{"schema": "normscope.report/1"', ""]
)
@pytest.mark.parametrize("command", ["compare", "merge", "report"])
def test_files_that_are_no_reports(tmp_path: Path, content: str, command: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    files: dict[str, list[object]] = {
        "compare": [path, path],
        "merge": [path],
        "report": [path, "-o", tmp_path / "a.html"],
    }
    error_of([command, *files[command]])
    assert left_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["0/token.mean.moments.count", "0/table.x.m2", "0/by_position.mean"])
def test_moments_that_cannot_be(saved: Path, tmp_path: Path, name: str) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    ended(["inspect", saved, *LINES, "--moments", good, "-q"])
    tensors = load_file(good)
    tensors[name].fill_(-1.0)
    with safe_open(good, framework="pt") as file:
        save_file(tensors, bad, metadata=file.metadata())
    assert repr(name.removeprefix("0/")) in error_of(["merge", bad])


@pytest.mark.parametrize(("fact", "value"), [("output_size", 0), ("calls", -1), ("output_square", -1.0)])
def test_facts_that_cannot_be(saved: Path, tmp_path: Path, fact: str, value: float) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    ended(["inspect", saved, *LINES, "--moments", good, "-q"])
    with safe_open(good, framework="pt") as file:
        header = file.metadata()
    facts = json.loads(header["facts"])
    facts["layers"][0][fact] = value
    save_file(load_file(good), bad, metadata={**header, "facts": json.dumps(facts)})
    assert f"facts.layers[0].{fact} is too small" in error_of(["merge", bad])


@pytest.mark.parametrize("features", [10**9, 10**15, 2**70, -1])
@pytest.mark.parametrize("whole", [True, False])
def test_features_that_cannot_be(moments: Path, tmp_path: Path, features: int, whole: bool) -> None:
    """The shapes of the tensors show it before they take memory, even with a new digest."""
    bad, tensors = tmp_path / "bad.safetensors", load_file(moments)
    with safe_open(moments, framework="pt") as file:
        header = file.metadata()
    report = json.loads(tensors["report"].numpy().tobytes())
    for layer in report["layers"]:
        layer["features"] = features
        if not whole:  # Without what the report itself holds against it.
            layer.update(dict.fromkeys(("feature", "own_output", "outliers")))
    tensors["report"] = torch.frombuffer(bytearray(json.dumps(report), "utf-8"), dtype=torch.uint8)
    save_file(tensors, bad, metadata=signed(tensors, header))
    assert "features" in error_of(["merge", bad]) or whole
    ended(["report", bad, "-o", tmp_path / "a.html"])
    ended(["compare", bad, bad])


def test_moments_that_were_changed_are_refused(moments: Path, tmp_path: Path) -> None:
    bad, tensors = tmp_path / "bad.safetensors", load_file(moments)
    with safe_open(moments, framework="pt") as file:
        header = file.metadata()
    tensors["0/table.x.mean"][0, 3] += 1.0
    save_file(tensors, bad, metadata=header)
    assert "it was changed after it was written; write it again" in error_of(["merge", bad])
    del header["sha256"]  # as it was written before there was one
    save_file(tensors, bad, metadata=header)
    assert ended(["merge", bad]).exit_code == 0


@pytest.mark.parametrize("make", [shutil.copy, os.link, os.symlink])
def test_moments_under_two_names_are_one_part(
    moments: Path, tmp_path: Path, make: Callable[[Path, Path], object]
) -> None:
    again = tmp_path / "again.safetensors"
    make(moments, again)
    said = error_of(["merge", moments, again])
    assert said.endswith("expected each part once; drop one")
    assert ended(["merge", again, "--moments", tmp_path / "one"]).exit_code == 0
    assert ended(["merge", tmp_path / "one"]).exit_code == 0


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
@pytest.mark.parametrize("command", ["compare", "merge", "report"])
def test_a_device_is_no_report(tmp_path: Path, device: str, command: str) -> None:
    files: dict[str, list[object]] = {
        "compare": [device, device],
        "merge": [device],
        "report": [device, "-o", tmp_path / "a.html"],
    }
    assert f"cannot read '{device}' as a report: it is a device; " in error_of([command, *files[command]])


def test_a_table_of_words_costs_what_it_holds_and_not_what_it_could() -> None:
    words = TokenMoments(2, most=2**62)
    words.add(torch.ones(3, 2), torch.tensor([5, 5, 7]))
    assert words.rows == {5: 0, 7: 1}


def test_a_path_with_a_nul_is_told() -> None:
    with pytest.raises(ReportError, match=r"null (byte|character)"):
        normscope.merge(["a\0b"])


def test_a_closed_standard_output_of_help() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "normscope", "explain"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
