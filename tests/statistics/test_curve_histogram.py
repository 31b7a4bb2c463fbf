"""The histogram of output against input: against numpy on float64 activations, in parts, and in results."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

import normscope
from normscope import Batching, Checkpoint, Stop
from normscope.cli.app import app
from normscope.engine.progress import Progress
from normscope.errors import ReportError, UsageError
from normscope.results.curve import InputOutputCurve
from normscope.results.inspect import LayerReport, Report
from normscope.results.tidy import csv_lines
from normscope.statistics.curve_histogram import INPUTS, OUTPUTS, CurveHistogram
from normscope.statistics.moments_file import read_moments, write_moments
from tests.statistics.test_extremes import MODELS, counted
from tests.support import models
from tests.support.reference import layer_norm, rms_norm

EDGES = np.linspace(-1, 1, 65)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def reference(x: Any, y: Any, ends: tuple[float, float]) -> Any:
    """Return numpy's histogram, whose last bin, unlike the others, would include its upper end."""
    inside = (x < ends[0]) & (y < ends[1])
    return np.histogram2d(x[inside], y[inside], bins=[EDGES * end for end in ends])[0]


def of(curve: InputOutputCurve | None) -> tuple[float, float, int, Any]:
    assert curve
    return curve.input_limit, curve.output_limit, curve.beyond, curve.histogram().tolist()


def curves(report: Report) -> dict[str, Any]:
    return {name: of(layer.curve) for name, layer in report.layers.items()}


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=40), st.integers(0, 40), st.booleans())
@settings(max_examples=80, deadline=None)
def test_bins_are_numpys_and_parts_are_the_whole(
    pairs: list[tuple[float, float]], cut: int, short: bool
) -> None:
    """Values in bfloat16 often lie on the ends of bins."""
    values = torch.tensor(pairs, dtype=torch.float32)
    values = values.bfloat16().float() if short else values
    whole, first, second = CurveHistogram(), CurveHistogram(), CurveHistogram()
    whole.add(*values.T)
    first.add(*values[:cut].T)
    second.add(*values[cut:].T)
    second.merge(first)
    assert torch.equal(second.histogram, whole.histogram)
    x, y = values.double().numpy().T
    for k, j in ((INPUTS.low + 5, OUTPUTS.low + 5), (3, 4), (INPUTS.high, OUTPUTS.high)):
        rows = torch.zeros(66, whole.histogram.shape[1], dtype=torch.int64)
        rows.index_add_(0, INPUTS.picture_bins(k), whole.histogram)
        table = torch.zeros(66, 66, dtype=torch.int64).index_add_(1, OUTPUTS.picture_bins(j), rows)
        np.testing.assert_array_equal(table[1:-1, 1:-1], reference(x, y, (2.0**k, 2.0**j)))
        assert int(table.sum()) == len(pairs)


def test_a_picture_leaves_one_in_a_thousand_beyond() -> None:
    """1000 elements within 8, and `large` ones: the picture ends at 8 as long as there is one of them."""
    for large, end in ((1, 3), (2, 10)):
        counts = CurveHistogram()
        x = torch.cat([torch.linspace(-8, 7.99, 1000), torch.full((large,), 1000.0)])
        counts.add(x, torch.zeros_like(x))
        exponent, output, table = counts.picture()
        assert (exponent, output) == (end, 2)
        assert int(table[65].sum()) == (large if end == 3 else 0)
    counts = CurveHistogram()
    counts.add(torch.tensor([torch.inf, -1e9, 1e-30, -0.0]), torch.tensor([300.0, 0.0, 0.0, torch.nan]))
    assert counts.picture()[:2] == (INPUTS.high, OUTPUTS.high)
    assert int(counts.histogram.sum()) == 3, "an unknown output is left out"


@pytest.mark.parametrize("name", MODELS)
def test_curves_are_those_of_the_activations(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model, batch = build().eval(), inputs()
    inputs_of: dict[str, list[Any]] = {}

    def keep(layer: str) -> Callable[..., None]:
        return lambda _, args, __: inputs_of.setdefault(layer, []).append(args[0].double().numpy())

    watcher = normscope.watch(model, curve=True)
    with watcher, torch.no_grad():
        for layer, module in model.named_modules():
            if layer in {each.norm.name for each in watcher._recorder.layers}:
                module.register_forward_hook(keep(layer))
        model(**batch)
        model(**batch)
    for layer in watcher.report().layers.values():
        x = np.concatenate([part.reshape(-1, layer.features) for part in inputs_of[layer.name]])
        rows = counted(batch, len(x) // 2)[0]
        x = x[np.concatenate([rows, rows])]
        assert_curve(layer, x)


def assert_curve(layer: LayerReport, x: Any) -> None:
    """Inputs are counted exactly; an output within the rounding of float32 of an end may be beyond it."""
    y = (rms_norm if layer.kind == "rmsnorm" else layer_norm)(x, layer.eps)
    ends = [
        next(e for e in 2.0 ** np.arange(low, 17) if ((v < -e) | (v >= e)).sum() <= v.size / 1000)
        for v, low in ((x, -5), (y, 2))
    ]
    input_end, output_end, beyond, counts = of(layer.curve)
    assert [input_end, output_end] == ends
    want = reference(x.ravel(), y.ravel(), (ends[0], ends[1]))
    got = np.asarray(counts)
    near = np.abs((y / ends[1] * 32) - np.round(y / ends[1] * 32)) < 2e-5
    assert np.abs(got - want).sum() <= 2 * near.sum()
    assert near.mean() < 2e-3
    assert got.sum() + beyond == x.size == layer.count * layer.features
    known = (y >= -ends[1] * (1 - 1e-6)) & (y < ends[1] * (1 - 1e-6))
    if known.all():
        columns = np.histogram(x[x < ends[0]], bins=EDGES * ends[0])[0]
        np.testing.assert_array_equal(got.sum(1), columns)


TEXTS = models.prose(30)


demo = cache(models.demo)


def inspected(texts: list[str] = TEXTS, **options: Any) -> Report:
    batching = Batching(4, special_tokens="exclude")
    model, tokenizer = demo()
    return normscope.inspect(
        model, texts, tokenizer=tokenizer, batching=batching, **{"curve": True, **options}
    )


@pytest.fixture(scope="module")
def whole() -> Report:
    return inspected(moments=True)


def test_special_tokens_are_left_out(whole: Report) -> None:
    for layer in whole.layers.values():
        _, _, beyond, counts = of(layer.curve)
        assert np.sum(counts) + beyond == whole.run.tokens * layer.features
    assert whole.run.special_tokens == "exclude"


def test_shards_merge_into_the_whole(whole: Report, tmp_path: Path) -> None:
    for i in (1, 2):
        write_moments(inspected(shard=normscope.Shard(i, 2), moments=True), tmp_path / f"{i}")
    merged = normscope.merge([tmp_path / "1", tmp_path / "2"])
    assert_alike(merged, whole)
    write_moments(merged, tmp_path / "merged")
    assert curves(normscope.merge([read_moments(tmp_path / "merged")])) == curves(merged)


def assert_alike(report: Report, other: Report) -> None:
    """Batches of other texts change the rounding of activations, and so the bins of a few elements."""
    for name, (*ends, beyond, counts) in curves(report).items():
        *other_ends, other_beyond, other_counts = curves(other)[name]
        assert ends == other_ends
        elements = np.sum(counts) + beyond
        assert elements == np.sum(other_counts) + other_beyond
        assert np.abs(np.subtract(counts, other_counts)).sum() <= 1e-4 * elements


def test_a_part_without_a_curve_is_refused(whole: Report) -> None:
    plain = inspected(TEXTS[:4], curve=False, moments=True)
    assert all(layer.curve is None for layer in plain.layers.values())
    with pytest.raises(UsageError, match=r"has curve of 'embeddings.LayerNorm' 'False'; expected 'True'"):
        normscope.merge([whole, plain])


def test_a_resumed_run_has_the_curve_of_the_whole(whole: Report, tmp_path: Path) -> None:
    stop = Stop()

    def progress(at: Progress) -> None:
        if at.texts:
            stop.ask()

    part = inspected(checkpoint=Checkpoint(tmp_path / "c", 0.0), stop=stop, progress=progress)
    assert part.run.texts < whole.run.texts
    resumed = inspected(checkpoint=Checkpoint(tmp_path / "c", 0.0, resume=True), moments=True)
    assert curves(resumed) == curves(whole)
    for name, state in resumed.moments.layers.items():
        ours, theirs = state.moments.curve, whole.moments.layers[name].moments.curve
        assert torch.equal(ours.histogram, theirs.histogram)


def test_json_and_csv(whole: Report) -> None:
    again = Report.from_dict(json.loads(whole.to_json()))
    assert curves(again) == curves(whole)
    rows = [line.rstrip("\n").split(",") for line in csv_lines(whole)]
    names = {row[4] for row in rows if row[1] == "curve"}
    assert names == {"input_limit", "output_limit", "beyond"}


@pytest.mark.parametrize(
    ("field", "value"), [("input_bin", [64, 0]), ("count", [1]), ("count", [0, 1]), ("input_limit", None)]
)
def test_a_damaged_curve_is_refused(whole: Report, field: str, value: Any) -> None:
    data = whole.to_dict()
    curve = {"input_limit": 1, "output_limit": 4, "beyond": 0}
    curve |= {"input_bin": [0, 1], "output_bin": [1, 2], "count": [3, 4], field: value}  # type: ignore[dict-item]
    data["layers"][0]["curve"] = curve
    with pytest.raises(ReportError, match="curve"):
        Report.from_dict(data)


class Odd(nn.Module):
    """A norm that follows no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.abs().sum(-1, keepdim=True) + x.amax(-1, keepdim=True).exp())


class OddNorm(Odd):
    """It has the name of a norm."""


def test_batchnorm_has_lines_and_a_norm_without_a_formula_has_no_curve() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(8), OddNorm()).eval()
    norm: Any = model[0]
    norm.running_mean.copy_(torch.linspace(-1, 1, 8))
    watcher = normscope.watch(model, curve=True)
    x = torch.randn(50, 8)
    with watcher, torch.no_grad():
        model(x)
    batch, odd = watcher.report().layers.values()
    assert odd.calls == 1
    assert odd.curve is None
    y = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    input_end, output_end, _, counts = of(batch.curve)
    want = reference(x.double().numpy().ravel(), y.double().numpy().ravel(), (input_end, output_end))
    np.testing.assert_array_equal(counts, want)


def test_the_command_line_draws_it(tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    first = ("inspect", "demo", "the cat sat", "it rained", "-q", "--curve")
    for options in ((), ("--plot",)):
        text = run(*first, *options)
        assert "Output against input" in text
        assert "of 3,456 elements are beyond the ends." in text
    run(*first, "--json", "-o", tmp_path / "a.json")
    run("report", tmp_path / "a.json", "--chart", "curve", "-o", tmp_path / "a.svg")
    assert "Output against input" in (tmp_path / "a.svg").read_text()
    run("report", tmp_path / "a.json", "-o", tmp_path / "a.html")
    assert "Output against input, element by element" in (tmp_path / "a.html").read_text()
