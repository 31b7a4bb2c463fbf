"""`normscope track`: windows of a training over steps, which layers moved first and most, and the gate."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import normscope
from normscope.cli.app import app
from normscope.errors import ReportError
from normscope.results.inspect import LayerReport, Report
from normscope.results.windows import append_window, keep_windows, read_windows
from tests.analyses.training.runs import norm_logs, trainer
from tests.support import reports

STEPS, FEATURES = (1, 10, 20, 30, 40, 50), 256


def moved(layer: LayerReport, generator: np.random.Generator, shift: float) -> LayerReport:
    """Return a layer whose means have the noise of a batch, and a shift, in standard deviations."""
    assert layer.feature is not None
    noise = 0.05 * generator.standard_normal(FEATURES)
    stats = replace(layer.feature, mean=noise + shift, variance=np.ones(FEATURES))
    return replace(layer, features=FEATURES, feature=stats, own_output=None, outliers=None)


def windows(path: Path) -> list[Report]:
    """Write windows in which layer 1 moves at step 30, layer 2 at step 20, and no other one."""
    generator, written = np.random.default_rng(0), []
    for step in STEPS:
        shifts = {1: 0.9 * (step >= 30), 2: 0.4 * (step >= 20)}
        whole = reports.minilm()
        layers = {
            name: moved(layer, generator, shifts.get(layer.index, 0.0))
            for name, layer in whole.layers.items()
        }
        written.append(replace(whole, layers=layers))
        gaps = {} if step == 1 else dict.fromkeys(layers, (0.25, 0.125))
        append_window(path, step, "train", written[-1], gaps)
        append_window(path, step, "eval", written[0], gaps)
    return written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "norms.jsonl"


def test_what_moved_first_and_most_is_found(file: Path) -> None:
    names = list(windows(file)[0].layers)
    track = normscope.track(file)
    assert track.steps.tolist() == list(STEPS)
    assert list(track.layers)[:2] == [names[1], names[2]]
    assert [track.layers[names[i]].moved_at for i in (1, 2)] == [30, 20]
    # Noise alone is no movement, however many layers there are.
    assert {layer.moved_at for layer in track.layers.values() if layer.index > 2} == {None}
    shown = CliRunner().invoke(app, ["track", str(file)]).stdout
    assert f"First to move: {names[2]}, at step 20." in shown
    assert "Track of a training · steps 1 to 50 · 6 windows · 13 layers" in shown


def test_numbers_are_those_of_the_windows(file: Path) -> None:
    written = windows(file)
    for layer in normscope.track(file).layers.values():
        means = [np.asarray(report.layers[layer.name].feature.mean) for report in written]  # type: ignore[union-attr]
        drift = [np.linalg.norm(mean - means[0]) / np.sqrt(FEATURES) for mean in means]
        over = layer.over_steps
        np.testing.assert_allclose(over.drift_mean, drift, rtol=1e-12)
        assert layer.bn_drift.mean == over.drift_mean[-1]
        np.testing.assert_allclose(over.bn_gap_mean[1:], 0.25)
        np.testing.assert_allclose(over.bn_gap_variance[1:], 0.125)
        assert np.isnan(over.bn_gap_mean[0])
        last = written[-1].layers[layer.name]
        assert last.token
        assert last.agreement
        assert last.global_
        assert over.ln_variance[-1] == last.token.variance.mean
        assert over.bn_agreement[-1] == last.agreement["feature"]
        assert over.input_rms[-1] ** 2 == pytest.approx(last.global_.mean**2 + last.global_.variance)


def test_the_scalars_of_a_real_run_are_those_that_were_logged(tmp_path: Path, file: Path) -> None:
    one = trainer(tmp_path, normscope.NormCallback(2, save=file))
    one.train()
    track, logs = normscope.track(file), norm_logs(one)
    assert track.steps.tolist() == list(logs)
    for name, layer in track.layers.items():
        for metric in (
            "ln_variance",
            "bn_agreement",
            "bn_gap_mean",
            "bn_gap_variance",
            "input_rms",
            "largest_input",
        ):
            want = [numbers.get(f"norms/{metric}/{name}", np.nan) for numbers in logs.values()]
            np.testing.assert_allclose(getattr(layer.over_steps, metric), want, rtol=1e-9)


def test_the_gate_ends_with_code_3(file: Path) -> None:
    names = list(windows(file)[0].layers)
    run = CliRunner().invoke
    assert run(app, ["track", str(file), "--fail-above", "bn_drift.mean=1.0", "-q"]).exit_code == 0
    failed = run(app, ["track", str(file), "--fail-above", "bn_drift.mean=0.6", "-q"])
    assert failed.exit_code == 3
    assert failed.stderr.count("failed:") == 1
    assert f"failed: {names[1]}: bn_drift.mean 0.9" in failed.stderr


def test_all_formats_are_written(tmp_path: Path, file: Path) -> None:
    windows(file)
    run = CliRunner().invoke
    plain = json.loads(run(app, ["track", str(file), "--json"]).stdout)
    assert plain["schema"] == "normscope.track/1"
    back = normscope.Track.from_dict(plain)
    assert back == normscope.track(file)
    csv = run(app, ["track", str(file), "--format", "csv"]).stdout
    assert csv.startswith("layer,view,position,feature,statistic,value\n")
    assert "over_steps" in csv
    assert run(app, ["track", str(file), "--format", "markdown"]).stdout.startswith("## Track of a training")
    assert "Over steps" in str(back)
    assert "<table>" in back._repr_html_()


def test_the_page_has_a_curve_for_each_number(tmp_path: Path, file: Path) -> None:
    pytest.importorskip("vl_convert")
    windows(file)
    done = CliRunner().invoke(app, ["track", str(file), "-o", str(tmp_path / "track.html"), "-q"])
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "track.html").read_text()
    assert page.count("<svg") == 8
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no window; expected one or more"),
        ("{}\n", "line 1 is not a layer of a window"),
        ("[1]\n", "line 1 is not a layer of a window"),
        ("nonsense\n", "line 1 is not a layer of a window"),
        ('{"step": 1, "split": "train", "layer": "a"}\n', "line 1"),
        ('{"step": true, "split": "train"}\n', "its step or its split"),
    ],
)
def test_another_file_is_refused_in_one_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    done = CliRunner().invoke(app, ["track", str(file), "-q"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"cannot read .*missing.jsonl'.*; expected the file of"):
        normscope.track(tmp_path / "missing.jsonl")


def test_windows_after_a_checkpoint_are_removed(file: Path) -> None:
    windows(file)
    with file.open("a") as stream:
        stream.write('{"step": 60, "split": "tr')  # The run ended in the middle of a line.
    keep_windows(file, 20)
    assert {line.step for line in read_windows(file)} == {1, 10, 20}
    keep_windows(file, 0)
    assert file.read_text() == ""


def test_two_windows_do_not_tell_movement_from_noise(file: Path) -> None:
    windows(file)
    keep_windows(file, 10)
    track = normscope.track(file)
    assert track.warnings == ("2 windows do not tell movement from noise; expected three or more",)
    assert {layer.moved_at for layer in track.layers.values()} == {None}
