"""Comparison of two reports: each number against its formula, matching of layers, the gate, rendering."""

import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

import normscope
from normscope.analyses.compare import METRICS, Bound, compare, layer_drift
from normscope.cli import output as streams
from normscope.cli.app import app
from normscope.errors import ReportError, UsageError
from normscope.render.compare import render_comparison, render_comparison_markdown
from normscope.render.terminal import Screen
from normscope.results.common import Summary, TokenSelection
from normscope.results.compare import Comparison
from normscope.results.depth import DepthPoint, DepthProfile, ResidualSize, ResidualTotal
from normscope.results.inspect import EffectSize, Explained, Extreme, Extremes, LayerReport, Report
from tests.support import models, reports
from tests.support.reports import MINILM, NAN


def moved(layer: LayerReport, seed: int) -> LayerReport:
    """Return the same layer in another report, with every statistic changed."""
    generator = np.random.default_rng(seed)
    assert layer.feature
    assert layer.token
    size = layer.features
    feature = replace(
        layer.feature, mean=generator.normal(size=size), variance=generator.gamma(2.0, size=size)
    )
    token = replace(
        layer.token,
        mean=Summary(9, generator.normal(), 1, 0, 1),
        variance=Summary(9, generator.gamma(2), 1, 0, 1),
    )
    effect = EffectSize(0.3, float(generator.normal()))
    return replace(
        layer,
        feature=feature,
        token=token,
        agreement={"feature": float(generator.uniform(-1, 1))},
        explained=Explained(effect, effect),
        mean_share=float(generator.uniform()),
        mean_share_energy=float(generator.uniform()),
        extremes=Extremes(
            Extreme(float(generator.gamma(9)), 1, None, None),
            Extreme(float(generator.gamma(9)), 2, None, None),
            np.ones(size),
            float(generator.gamma(900)),
            NAN,
        ),
    )


def streamed(report: Report, seed: int) -> Report:
    """Return a report in which every layer reads the residual stream."""
    generator = np.random.default_rng(seed)
    points = tuple(
        DepthPoint(name, 0, ResidualSize(generator.gamma(2), NAN), NAN, 1 + generator.gamma(2), {})
        for name in report.layers
    )
    return replace(report, depth=(DepthProfile("encoder", 1, ResidualTotal(NAN), None, points, ()),))


@pytest.fixture
def before() -> Report:
    return streamed(reports.minilm(), 0)


@pytest.fixture
def after(before: Report) -> Report:
    layers = [moved(layer, i) for i, layer in enumerate(before.layers.values())]
    return streamed(reports.report(layers, id="after"), 1)


def stream(report: Report, name: str) -> Any:
    assert report.depth
    return next(point for point in report.depth[0].points if point.name == name)


def plainly(a: Any, b: Any) -> dict[str, float]:
    """Compute the same numbers feature by feature."""
    sd_a, sd_b = [v**0.5 for v in a.feature.variance.tolist()], [v**0.5 for v in b.feature.variance.tolist()]
    scale = math.sqrt(sum(sd**2 for sd in sd_a))
    shift = math.sqrt(sum((x - y) ** 2 for x, y in zip(a.feature.mean, b.feature.mean, strict=True)))
    spread = math.sqrt(sum((x - y) ** 2 for x, y in zip(sd_a, sd_b, strict=True)))
    return {
        "bn_drift.mean": shift / scale,
        "bn_drift.variance": spread / scale,
        "ln_drift.mean": abs(a.token.mean.mean - b.token.mean.mean) / a.token.variance.mean**0.5,
        "ln_drift.variance": abs(a.token.variance.mean - b.token.variance.mean) / a.token.variance.mean,
        "agreement_change": b.agreement["feature"] - a.agreement["feature"],
        "position_change": b.explained.position.epsilon2 - a.explained.position.epsilon2,
        "mean_share_change": b.mean_share - a.mean_share,
        "mean_share_energy_change": b.mean_share_energy - a.mean_share_energy,
        "largest_input_change": doublings(a.extremes.input.value, b.extremes.input.value),
        "largest_output_change": doublings(a.extremes.output.value, b.extremes.output.value),
        "headroom_change": doublings(a.extremes.headroom, b.extremes.headroom),
    }


def doublings(a: float, b: float) -> float:
    return math.log(b / a) / math.log(2)


def test_every_number_follows_its_formula(before: Report, after: Report) -> None:
    comparison = compare(before, after)
    assert set(comparison.layers) == set(MINILM)
    for name, layer in comparison.layers.items():
        want = plainly(before.layers[name], after.layers[name])
        old, new = stream(before, name), stream(after, name)
        want["residual_rms_change"] = doublings(old.residual.rms, new.residual.rms)
        want["kurtosis_change"] = doublings(old.kurtosis, new.kurtosis)
        assert {metric: read(layer) for metric, read in METRICS.items()} == pytest.approx(want, rel=1e-12)
        assert (layer.other, layer.index) == (name, before.layers[name].index)


def test_the_largest_movers_come_first(before: Report, after: Report) -> None:
    layers = list(compare(before, after).layers.values())
    most = [max(layer.bn_drift.mean, layer.bn_drift.variance) for layer in layers]
    assert most == sorted(most, reverse=True)
    assert len(set(most)) == len(most)
    unknown = replace(before, layers={**before.layers, MINILM[0]: reports.uncalled(MINILM[0])})
    assert list(compare(unknown, after).layers)[-1] == MINILM[0]


def test_a_report_is_no_distance_from_itself(before: Report) -> None:
    for layer in compare(before, before).layers.values():
        assert {read(layer) for read in METRICS.values()} == {0.0}


def test_what_is_unknown_is_nan_and_null(before: Report) -> None:
    other = replace(before, layers={MINILM[0]: reports.uncalled(MINILM[0])}, depth=None)
    for pair in ((before, other), (other, before), (other, other)):
        comparison = compare(*pair)
        assert all(math.isnan(read(comparison.layers[MINILM[0]])) for read in METRICS.values())
    assert comparison.to_dict()["layers"][0]["bn_drift"] == {"mean": None, "variance": None}
    flat = reports.layer("n")
    assert flat.feature
    flat = replace(flat, feature=replace(flat.feature, variance=np.zeros(48)))
    assert math.isnan(compare(reports.report([flat]), reports.report([flat])).layers["n"].bn_drift.mean)


def test_reports_of_earlier_versions_have_no_changes_of_newer_numbers(before: Report, after: Report) -> None:
    data = before.to_dict()
    del data["depth"]
    for layer in data["layers"]:
        del layer["extremes"], layer["mean_share"], layer["mean_share_energy"]
    comparison = compare(Report.from_dict(data), after)
    newer = [metric for metric in METRICS if metric.startswith(("largest", "headroom", "mean", "res", "kur"))]
    assert len(newer) == 7
    for metric in newer:
        assert {layer[metric] for layer in comparison.to_dict()["layers"]} == {None}
        with pytest.raises(ReportError, match=f"no layer has {metric} in both"):
            Bound(metric, 1).crossed(comparison)
    assert Bound("bn_drift.mean", 1e9).crossed(comparison) == []
    assert "headroom" in render_comparison(comparison)


@pytest.mark.parametrize("value", [0.0, NAN, math.inf])
def test_a_largest_value_without_a_logarithm_has_no_change(value: float, before: Report) -> None:
    layer = before.layers[MINILM[0]]
    assert layer.extremes
    odd = replace(layer, extremes=replace(layer.extremes, output=Extreme(value, None, None, None)))
    for pair in ((layer, odd), (odd, layer)):
        drift = layer_drift(*pair)
        assert math.isnan(drift.largest_output_change)
        assert drift.largest_input_change == 0


def test_layers_are_matched_by_name_then_by_order() -> None:
    a = reports.report([reports.layer(name, i) for i, name in enumerate("wxyz")])
    b = reports.report([reports.layer(name, i) for i, name in enumerate(["y", "new", "w"])])
    comparison = compare(a, b)
    assert {layer.name: layer.other for layer in comparison.layers.values()} == {
        "w": "w",
        "y": "y",
        "x": "new",
    }
    assert (comparison.only_a, comparison.only_b) == (("z",), ())
    assert compare(b, a).only_b == ("z",)
    assert comparison.warnings == ("names differ, so layers were matched by their order: x in A, new in B",)


def test_what_makes_numbers_differ_is_said(before: Report) -> None:
    other = reports.report([reports.layer(MINILM[0], features=8, kind="rmsnorm")])
    other = replace(other, run=replace(other.run, special_tokens="exclude", max_length=None))
    comparison = compare(before, other)
    said = "\n".join(comparison.warnings)
    assert "run.special_tokens is include in A and exclude in B" in said
    assert "run.max_length is 256 in A and none in B" in said
    assert "numbers of features differ" in said
    selected = replace(before, run=replace(before.run, selection=TokenSelection((7, 11), 2, roles=("user",))))
    assert compare(before, selected).warnings == (
        "run.selection is none in A and without tokens of the excluded ids 7, 11, or at the first 2 "
        "positions, or of other roles than user in B, so the numbers differ for that, too",
    )
    assert "kinds of layers differ" in said
    assert math.isnan(comparison.layers[MINILM[0]].bn_drift.mean)
    assert comparison.layers[MINILM[0]].ln_drift.mean == 0


def test_json_there_and_back(before: Report, after: Report, tmp_path: Path) -> None:
    comparison = compare(before, replace(after, layers=dict(list(after.layers.items())[2:])))
    data = json.loads(comparison.to_json(tmp_path / "c.json"))
    assert data["schema"] == Comparison.SCHEMA
    assert [layer["name"] for layer in data["layers"]] == list(comparison.layers)
    assert Comparison.from_dict(json.loads((tmp_path / "c.json").read_text())) == comparison
    with pytest.raises(ReportError, match="two layers of one name"):
        Comparison.from_dict({**data, "layers": data["layers"][:1] * 2})
    with pytest.raises(ReportError, match="a comparison"):
        Comparison.from_dict(before.to_dict())


# The gate


@pytest.mark.parametrize("metric", METRICS)
def test_a_gate_names_what_is_above_it(metric: str, before: Report, after: Report) -> None:
    comparison = compare(before, after)
    sizes = sorted((abs(METRICS[metric](layer)) for layer in comparison.layers.values()), reverse=True)
    crossed = Bound(metric, sizes[3]).crossed(comparison)
    assert len(crossed) == 3
    assert [f"{size:.4g} is above" in line for size, line in zip(sizes, crossed, strict=False)] == [True] * 3
    assert Bound(metric, sizes[0]).crossed(comparison) == []
    assert Bound.read(f" {metric} = 1e-3") == Bound(metric, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bn_drift.maen=1", "is it bn_drift.mean"),
        ("agreement=1", "is it agreement_change"),
        ("\x1b[31m=1", "one of bn_drift.mean, bn_drift.variance"),
        ("bn_drift.mean", "the bound of bn_drift.mean is ''"),
        ("bn_drift.mean=x", "'x'; expected a number of 0 or more"),
        ("bn_drift.mean=-1", "'-1'"),
        ("bn_drift.mean=nan", "'nan'"),
        ("bn_drift.mean=inf", "'inf'"),
        ("", "one of bn_drift.mean"),
    ],
)
def test_a_gate_that_cannot_be_is_wrong_usage(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Bound.read(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_gate_on_nothing_is_no_pass(before: Report) -> None:
    nothing = compare(before, reports.report([]))
    with pytest.raises(ReportError, match=r"no layer has bn_drift\.mean in both"):
        Bound("bn_drift.mean", 1).crossed(nothing)
    half = compare(before, replace(before, layers={MINILM[1]: before.layers[MINILM[1]]}))
    assert Bound("bn_drift.mean", 1).untested(half) == [name for name in MINILM if name != MINILM[1]]


# Rendering


@pytest.mark.parametrize("width", [80, 200])
def test_golden(width: int, golden: Callable[[str, str], None]) -> None:
    golden(f"compare-{width}.txt", render_comparison(reports.comparison(), screen=Screen(width)))


def test_golden_markdown(golden: Callable[[str, str], None]) -> None:
    golden("compare.md", render_comparison_markdown(reports.comparison(), top=5))


@pytest.mark.parametrize("width", [1, 60, 79, 80, 133, 500])
def test_lines_fit_and_strings_are_shown_not_obeyed(width: int) -> None:
    hostile = reports.hostile()
    comparison = compare(hostile, replace(hostile, layers=dict(list(hostile.layers.items())[3:])))
    text = render_comparison(comparison, screen=Screen(width, unicode=False))
    assert max(map(cell_len, text.splitlines())) <= max(width, 60)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\x1b" not in render_comparison_markdown(comparison)
    assert "<b>" not in render_comparison_markdown(comparison)


def test_top_bounds_the_rows(before: Report, after: Report) -> None:
    text = render_comparison(compare(before, after), top=4)
    assert "13 normalization layers, the 4 that moved most" in text
    assert len(text.splitlines()) == len(render_comparison(compare(before, after)).splitlines()) - 9


# The command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def files(before: Report, after: Report, tmp_path: Path) -> tuple[Path, Path]:
    before.to_json(tmp_path / "a.json")
    after.to_json(tmp_path / "b.json")
    return tmp_path / "a.json", tmp_path / "b.json"


def test_the_command_writes_every_format(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    comparison = normscope.compare(*files)
    for options, text in (
        ([], render_comparison(comparison)),
        (["--top", 2], render_comparison(comparison, top=2)),
        (["--format", "markdown"], render_comparison_markdown(comparison)),
    ):
        result = run(*files, *options)
        assert (result.exit_code, result.stdout, result.stderr) == (0, text, "")
    done = run(*files, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Comparison.from_dict(json.loads(done.stdout)) == comparison
    assert run(*files, "--json", "-o", tmp_path / "out").stdout == ""
    assert Comparison.from_dict(json.loads((tmp_path / "out").read_text())) == comparison


def test_the_gate_decides_the_exit_code(files: tuple[Path, Path], before: Report) -> None:
    most = max(layer.bn_drift.mean for layer in normscope.compare(*files).layers.values())
    passed = run(*files, "--fail-above", f"bn_drift.mean={most * 1.01}")
    assert (passed.exit_code, passed.stderr) == (0, "")
    for gates in ((f"bn_drift.mean={most * 0.99}",), ("bn_drift.mean=1e9", f"bn_drift.mean={most * 0.99}")):
        failed = run(*files, "-q", *(part for gate in gates for part in ("--fail-above", gate)))
        assert failed.exit_code == 3
        assert failed.stdout == passed.stdout
        assert len(failed.stderr.splitlines()) == 1
        assert failed.stderr.startswith("failed: ")
        assert f"bn_drift.mean {most:.4g} is above" in failed.stderr
    replace(before, layers={MINILM[1]: before.layers[MINILM[1]]}).to_json(files[1])
    few = run(*files, "--fail-above", "bn_drift.mean=1")
    assert (few.exit_code, few.stderr.splitlines()[-1]) == (
        0,
        f"warning: bn_drift.mean is unknown at 12 layers, the first {MINILM[0]}",
    )


def test_a_gate_on_the_headroom(before: Report, tmp_path: Path) -> None:
    layer = before.layers[MINILM[3]]
    assert layer.extremes
    louder = replace(layer, extremes=replace(layer.extremes, headroom=layer.extremes.headroom / 6))
    before.to_json(tmp_path / "a.json")
    replace(before, layers={**before.layers, layer.name: louder}).to_json(tmp_path / "b.json")
    files = tmp_path / "a.json", tmp_path / "b.json"
    assert run(*files, "--fail-above", "headroom_change=2.6").exit_code == 0
    failed = run(*files, "--fail-above", "headroom_change=2.5")
    assert failed.exit_code == 3
    assert failed.stderr == f"failed: {layer.name}: headroom_change 2.585 is above 2.5\n"


def test_the_command_refuses(files: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments, code in (
        ((*files, "--fail-above", "bn_drift.maen=1"), 2),
        ((files[0], tmp_path / "nope"), 1),
        ((files[0], tmp_path), 1),
        ((*files, "-o", tmp_path / "no" / "x"), 1),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert run(files[0]).exit_code == 2


def test_it_loads_no_torch(files: tuple[Path, Path]) -> None:
    code = (
        "import atexit, sys\n"
        "from normscope.cli.start import main\n"
        f"sys.argv = ['normscope', 'compare', {str(files[0])!r}, {str(files[1])!r}, '-q']\n"
        "atexit.register(lambda: print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr))\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_two_corpora_on_minilm_and_a_file_with_moments(tmp_path: Path) -> None:
    prose, odd = models.prose(80), ["a a a a", "b b", "c c c c c c"]
    same = [normscope.inspect("demo", part, moments=True) for part in (prose[::2], prose[1::2], odd)]
    for i, part in enumerate(same):
        normscope.write_moments(part, tmp_path / f"{i}")
    near = normscope.compare(tmp_path / "0", tmp_path / "1")
    far = normscope.compare(tmp_path / "0", tmp_path / "2")
    assert near == normscope.compare(same[0], same[1])
    assert all(near.layers[name].bn_drift.mean < far.layers[name].bn_drift.mean for name in MINILM)
    assert not math.isnan(sum(layer.position_change for layer in near.layers.values()))
    assert NAN not in (layer.ln_drift.mean for layer in near.layers.values())


def test_help_all_names_every_metric_of_a_gate() -> None:
    text = CliRunner().invoke(app, ["compare", "--help-all"]).stdout
    assert all(metric in text for metric in METRICS)


def test_a_long_read_is_announced_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "r.json")
    reports.minilm().to_json(path)
    said: list[str] = []
    monkeypatch.setattr(streams, "say", said.append)
    monkeypatch.setattr(streams, "LONG_READ", 1)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    streams.announce([path])
    assert not said
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    streams.announce([path, str(tmp_path / "none"), "\0"])
    assert said == [f"reading {path!r}, 0 MB"]
