"""Merged parts of a corpus, in memory and through files: they equal the whole corpus, or are refused."""

import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import normscope
from normscope import Batching, Report
from normscope.cli.app import app
from normscope.errors import ReportError, UsageError
from normscope.render.plots import render_plots
from normscope.results.reading import read_report
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.moments_file import read_moments, write_moments
from tests.statistics.test_accumulator import accumulate, as_arrays, corpus, read
from tests.support import models
from tests.support.reference import rms_norm, worst_error

SENTENCES = models.prose(60)
# Parts count repeats within themselves.
BATCHED = {".run.seconds", ".run.batches", ".run.padding_share", ".layers.calls", ".run.repeated_texts"}


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    model, tokenizer = models.demo()
    return model.double(), tokenizer


def inspected(minilm: tuple[Any, Any], texts: list[str], **options: Any) -> Report:
    model, tokenizer = minilm
    batching = Batching(options.pop("batch_size", 32), order=options.pop("order", "length"))
    return normscope.inspect(
        model, texts, tokenizer=tokenizer, batching=batching, moments=True, words=True, **options
    )


@pytest.fixture(scope="module")
def parts(minilm: tuple[Any, Any]) -> list[Report]:
    return [inspected(minilm, SENTENCES[cut]) for cut in (slice(25), slice(25, 31), slice(31, None))]


@pytest.fixture(scope="module")
def whole(minilm: tuple[Any, Any]) -> Report:
    return inspected(minilm, SENTENCES)


def require_equal(got: Report, want: Report, within: float, *, apart: set[str] = BATCHED) -> None:
    """Require equal integers and strings, and floats within a relative error."""
    a, b = got.to_dict(), want.to_dict()
    assert differing(a, b, "") <= apart
    for one, other in zip(a["layers"], b["layers"], strict=True):
        measured = {k: v for k, v in as_arrays(other).items() if isinstance(v, dict) and k != "agreement"}
        measured = {k: v for k, v in measured.items() if k != "outliers"}
        error, where = worst_error(one, {**measured, "agreement": as_arrays(other["agreement"])})
        assert error < within, f"{other['name']}{where}"


def differing(a: Any, b: Any, path: str) -> set[str]:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        keys = a.keys() - {"provenance"}
        return {found for key in keys for found in differing(a[key], b[key], f"{path}.{key}")}
    if isinstance(a, list):
        assert len(a) == len(b), path
        return {found for x, y in zip(a, b, strict=True) for found in differing(x, y, path)}
    floats = isinstance(a, float) and isinstance(b, float)
    same = math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) if floats else a == b
    return set() if same or (path.endswith("own_error") and floats) else {path}


# Exactness


def test_parts_are_the_whole_on_minilm(parts: list[Report], whole: Report) -> None:
    merged = normscope.merge(parts)
    require_equal(merged, whole, 1e-9)
    assert merged.run.texts == len(SENTENCES)
    assert all(layer.own_error < 1e-12 for layer in merged.layers.values())


def test_the_same_batches_give_the_same_numbers_in_float32() -> None:
    model = models.demo()
    options = {"batch_size": 8, "order": "given"}
    pieces = [inspected(model, SENTENCES[part], **options) for part in (slice(16), slice(16, 40))]
    merged, want = normscope.merge(pieces), inspected(model, SENTENCES[:40], **options)
    require_equal(merged, want, 1e-9, apart={".run.seconds"})
    errors = [[layer.own_error for layer in report.layers.values()] for report in (merged, want)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)
    assert merged.run.padding_share == pytest.approx(want.run.padding_share, rel=1e-12)


def test_order_and_nesting_do_not_matter(parts: list[Report], whole: Report) -> None:
    a, b, c = parts
    for merged in (normscope.merge([c, a, b]), normscope.merge([a, normscope.merge([b, c])])):
        require_equal(merged, whole, 1e-9)
    assert normscope.merge([a]) == a


def test_merging_leaves_its_parts_alone(parts: list[Report]) -> None:
    before = {key: value.clone() for key, value in moments_of(parts[0]).state_dict().items()}
    normscope.merge(parts)
    assert all(torch.equal(value, before[key]) for key, value in moments_of(parts[0]).state_dict().items())


def moments_of(report: Report) -> Accumulator:
    moments: Accumulator = next(iter(report.moments.layers.values())).moments
    return moments


class Net(nn.Module):
    """A LayerNorm, a BatchNorm with stored statistics, and a norm that only some inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.batch, self.late = nn.LayerNorm(6), nn.BatchNorm1d(6), nn.LayerNorm(6)
        self.batch.running_mean = torch.randn(6)
        # Otherwise the second call of `late` gets rows of mean 0, and its means are rounding errors.
        nn.init.normal_(self.late.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch(self.first(x).movedim(-1, 1)).movedim(1, -1)
        return self.late(self.late(x)) if len(x) > 2 else x


def watched(*inputs: Tensor, **options: Any) -> Report:
    model = Net().double().eval()
    with normscope.watch(model, **options) as watcher, torch.no_grad():
        for x in inputs:
            model(x)
    return watcher.report(moments=True)


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(n, t, 6, generator=generator, dtype=torch.float64) for n, t in ((2, 5), (1, 3), (4, 7))
    ]
    given[0][1, 2, 3] = math.nan
    given[2][0, 0, 0] = math.inf
    return given


@pytest.mark.parametrize("per_call", [False, True])
def test_layers_that_a_part_never_reaches_stored_statistics_and_warnings(per_call: bool) -> None:
    few, one, many = inputs()
    want = watched(few, one, many, per_call=per_call)
    if per_call:
        with pytest.raises(UsageError, match="has layers"):
            normscope.merge([watched(few, one, per_call=True), watched(many, per_call=True)])
        pieces = [watched(few, many, per_call=True), watched(many[1:], one, per_call=True)]
        want = watched(few, many, many[1:], one, per_call=True)
    else:
        pieces = [watched(few, one), watched(many)]
    merged = normscope.merge(pieces)
    require_equal(merged, want, 1e-9, apart={".run.seconds"})
    gaps = [report.layers["batch"].stored_gap for report in (merged, want)]
    assert vars(gaps[0]) == pytest.approx(vars(gaps[1]), rel=1e-12)
    assert merged.warnings == want.warnings
    assert any("2 tokens with NaN or infinity" in note for note in merged.warnings)
    assert any("all calls pooled" in note for note in merged.warnings) != per_call


def test_a_watchers_moments_are_a_copy() -> None:
    few, _, many = inputs()
    model = Net().double().eval()
    with normscope.watch(model) as watcher, torch.no_grad():
        model(few)
        early = watcher.report(moments=True)
        model(many)
    assert watcher.report().moments is None
    assert normscope.merge([early]) == early
    assert watcher.report() != early


def test_affine_outliers_and_recurring_features_are_the_wholes(parts: list[Report], whole: Report) -> None:
    merged = normscope.merge(parts)
    assert merged.outlier_features == whole.outlier_features != ()
    for name, layer in whole.layers.items():
        other = merged.layers[name].outliers
        assert layer.outliers
        assert other
        assert other.affine_outliers == layer.outliers.affine_outliers


# Packing


def test_packing_keeps_every_bit() -> None:
    moments = accumulate(corpus([4, 1, 7], features=5, seed=2, massive=True), rms_norm, batch=2)
    tensors = moments.state_dict()
    again = Accumulator.of_state_dict(tensors, 5)
    assert read(again) == read(moments)
    assert all(torch.equal(values, tensors[name]) for name, values in again.state_dict().items())
    assert again.eps == moments.eps
    assert {values.dtype for values in tensors.values()} == {torch.float64, torch.int64, torch.int32}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("table.co", None, "'table.co' is missing"),
        ("table.co", torch.zeros(3, 5, dtype=torch.float64), "has 3 rows; expected 7"),
        ("table.co", torch.zeros(7, 4, dtype=torch.float64), "float64 (7, 4); expected float64 (0, 5)"),
        ("output.mean", torch.zeros(2, 5, dtype=torch.float64), "expected float64 (1, 5)"),
        ("token.mean.low", torch.zeros(1), "expected float64 ()"),
        ("words.rows", torch.tensor([[4, 0], [5, 7]]), "rows of 'words'"),
    ],
)
def test_what_is_no_packing_is_refused(name: str, value: Tensor | None, message: str) -> None:
    moments = accumulate(corpus([4, 1, 7], features=5, seed=2), rms_norm, batch=2)
    moments.words = Accumulator(5, 0.0, words=3).words
    tensors = {
        key: tensor for key, tensor in {**moments.state_dict(), name: value}.items() if tensor is not None
    }
    with pytest.raises(ReportError) as caught:
        Accumulator.of_state_dict(tensors, 5)
    assert message in str(caught.value)


# Files


def test_a_file_is_its_report(parts: list[Report], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for part, path in zip(parts, paths, strict=True):
        normscope.write_moments(part, path)
        assert read_report(path) == part
        assert read_report(path).moments is None
        assert read_moments(path).moments.slots == part.moments.slots
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    assert normscope.merge(paths) == normscope.merge(parts)
    write_moments(normscope.merge(paths[:2]), tmp_path / "two")
    assert normscope.merge([tmp_path / "two", paths[2]]) == normscope.merge(parts)


def test_a_batchnorms_file_has_its_stored_statistics(tmp_path: Path) -> None:
    report = watched(*inputs())
    write_moments(report, tmp_path / "part")
    assert normscope.merge([tmp_path / "part"]) == report


def test_a_file_is_written_whole_or_not_at_all(
    parts: list[Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "part"
    path.write_text("before")

    def half(tensors: Any, target: Path, metadata: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("normscope.statistics.safetensors_file.save_file", half)
    with pytest.raises(ReportError, match="No space left"):
        write_moments(parts[0], path)
    assert (path.read_text(), [p.name for p in tmp_path.iterdir()]) == ("before", ["part"])
    with pytest.raises(ReportError, match="is not a file"):
        write_moments(parts[0], "/dev/null")


def spoiled(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: h.pop("schema"), "safetensors without a report"),
        (lambda t, h: h.update(facts="{"), "its header is not ours"),
        (lambda t, h: h.update(facts='{"layers": []}'), "moments of 0 layers; expected 3"),
        (lambda t, h: h.pop("facts"), "its header is not ours"),
        (lambda t, h: t.pop("0/table.x.m2"), "'table.x.m2' is missing"),
        (lambda t, h: t.pop("report"), "report"),
        (lambda t, h: t.update(report=torch.tensor([255, 254], dtype=torch.uint8)), "utf-8"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    write_moments(watched(*inputs()), path)
    with pytest.raises(ReportError) as caught:
        normscope.merge([spoiled(path, change)])
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"{}", struct.pack("<Q", 50) + b"{", struct.pack("<Q", 2) + b"{}"])
def test_half_a_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(content)
    with pytest.raises(ReportError, match="part"):
        normscope.merge([path])


def test_a_report_without_moments_is_refused(parts: list[Report], tmp_path: Path) -> None:
    plain = replace(parts[0], moments=None)
    plain.to_json(tmp_path / "plain.json")
    for part in (plain, tmp_path / "plain.json"):
        with pytest.raises(ReportError, match=r"carries no moments; expected .*moments"):
            normscope.merge([parts[1], part])
    with pytest.raises(ReportError, match="no moments"):
        write_moments(plain, tmp_path / "x")


# Parts that cannot be merged


def changed(report: Report, **fields: Any) -> Report:
    model = {name.removeprefix("model_"): v for name, v in fields.items() if name.startswith("model_")}
    run = {name.removeprefix("run_"): v for name, v in fields.items() if name.startswith("run_")}
    layers = {**report.layers}
    for name, layer in report.layers.items():
        of_layer = {k: v for k, v in fields.items() if not k.startswith(("model_", "run_"))}
        layers[name] = replace(layer, **of_layer)
    return replace(
        report, model=replace(report.model, **model), run=replace(report.run, **run), layers=layers
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_id": "other\x1b"}, r"model.id 'other\\x1b'; expected 'BertModel'"),
        ({"model_commit": "abc"}, "model.commit 'abc'"),
        ({"model_revision": "v2"}, "model.revision 'v2'"),
        ({"model_architecture": "GPT2"}, "model.architecture"),
        ({"model_dtype": "float16"}, "model.dtype 'float16'; expected 'float64'"),
        ({"model_parameters": 7}, "model.parameters '7'"),
        ({"run_special_tokens": "exclude"}, "run.special_tokens 'exclude'; expected 'include'"),
        ({"run_medium": "image"}, "run.medium 'image'; expected 'text'"),
        ({"run_max_length": 9}, "run.max_length '9'"),
        ({"kind": "rmsnorm"}, "kind of 'embeddings.LayerNorm' 'rmsnorm'; expected 'layernorm'"),
        ({"eps": 1e-3}, "eps of 'embeddings.LayerNorm' '0.001'; expected '1e-12'"),
        ({"call": 1}, "call of"),
        ({"affine": "none"}, "affine of"),
    ],
)
def test_parts_that_differ_are_refused_and_the_field_is_named(
    fields: dict[str, Any], named: str, parts: list[Report]
) -> None:
    other = changed(parts[1], **fields)
    expected = parts[0].model.id
    with pytest.raises(UsageError) as caught:
        normscope.merge([parts[0], other])
    message = str(caught.value)
    assert message.startswith("part 2 has ")
    assert named.replace(r"\\", "\\").replace("BertModel", expected) in message
    assert message.isprintable()


def test_other_layers_and_other_words_are_refused(minilm: tuple[Any, Any], parts: list[Report]) -> None:
    fewer = inspected(minilm, SENTENCES[:4], exclude=["*.3.*"])
    with pytest.raises(UsageError, match=r"has layers 'encoder.layer.4.attention.output.LayerNorm'"):
        normscope.merge([parts[0], fewer])
    model, tokenizer = minilm
    wordless = normscope.inspect(model, SENTENCES[:4], tokenizer=tokenizer, moments=True)
    with pytest.raises(UsageError, match=r"has words of 'embeddings.LayerNorm' none; expected"):
        normscope.merge([parts[0], wordless])


def test_a_part_counts_once(parts: list[Report], tmp_path: Path) -> None:
    write_moments(parts[0], tmp_path / "part")
    pairs: list[list[Any]] = [[parts[0], parts[0]], [tmp_path / "part", str(tmp_path / "part")]]
    for twice in pairs:
        with pytest.raises(UsageError, match="given twice"):
            normscope.merge(twice)
    nothing: list[Any] = [[], "part", parts[0]]
    for none in nothing:
        with pytest.raises(UsageError, match="without a list of parts"):
            normscope.merge(none)


# The commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in (1, 2):
        texts = SENTENCES[4 * i : 4 * i + 4]
        done = run("inspect", "demo", *texts, "-q", "--moments", f"{i}.safetensors", "--json")
        assert json.loads(done.stdout) == read_report(f"{i}.safetensors").to_dict()
    merged = normscope.merge(["1.safetensors", "2.safetensors"])
    names = ("1.safetensors", "2.safetensors")
    assert run("merge", *names, "--json", "-o", "out.json").exit_code == 0
    assert read_report("out.json") == merged
    table = run("merge", *names, "--moments", "both.safetensors", "--layer", "*.5.output*", "--top", 2)
    assert "8 texts" in table.stdout
    assert "encoder.layer.5.output.LayerNorm ·" in table.stdout
    assert read_report("both.safetensors") == merged
    chosen = json.loads(run("merge", *names, "--json", "--layer", "*.0.*").stdout)
    assert len(chosen["layers"]) == 2
    assert run("merge", *names, "--format", "markdown").stdout.startswith("## demo")
    assert run("merge", *names, "--plot").stdout == render_plots(merged)
    assert run("merge", *names, "--plot", "--format", "csv").exit_code == 2


def test_the_command_refuses(tmp_path: Path) -> None:
    missing = run("merge", tmp_path / "nope")
    assert (missing.exit_code, missing.stdout, len(missing.stderr.splitlines())) == (1, "", 1)
    assert run("merge").exit_code == 2
    write_moments(watched(*inputs()), tmp_path / "part")
    assert run("merge", tmp_path / "part", tmp_path / "part").exit_code == 2
    for place, code in ((tmp_path, 2), ("-", 2), ("/dev/null", 2), (tmp_path / "none" / "x", 1)):
        done = run("merge", tmp_path / "part", "--moments", place)
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    unknown = run("merge", tmp_path / "part", "--layer", "nope*")
    assert (unknown.exit_code, "'nope*'" in unknown.stderr) == (2, True)
