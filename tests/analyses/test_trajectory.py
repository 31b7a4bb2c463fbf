"""Several revisions of a model: a report of each, and how its numbers move from the first one."""

import csv
import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import normscope
from normscope import Loading, Report
from normscope.analyses.trajectory import follow
from normscope.cli.app import app
from normscope.engine.stop import Stop
from normscope.models.loading import Loaded
from normscope.render.glyphs import UNICODE
from normscope.render.page import write as pages
from normscope.render.page.parts import parts_of
from normscope.render.terminal import Screen
from normscope.render.trajectory import render_trajectory, render_trajectory_markdown, revisions
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.glossary.lookup import columns as columns_of
from normscope.results.tidy import csv_lines, json_lines
from normscope.results.trajectory import Trajectory
from tests.support import reports
from tests.support.hub import LINES, fill_cache, save_bert

COMMITS = {"step1": "1" * 40, "step2": "2" * 40, "step3": "3" * 40}
REVISIONS = [*COMMITS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with three revisions; the weights of the last two are equal."""
    folder = tmp_path_factory.mktemp("hub")
    for seed, names in ((1, ["step1"]), (2, ["step2", "step3"])):
        torch.manual_seed(seed)
        saved = save_bert(folder / str(seed))
        for name in names:
            fill_cache(folder / "cache", "org/tiny", saved, (name,), COMMITS[name])
    return folder / "cache"


def loading(cache: Path, revision: str | None = None) -> Loading:
    return Loading(revision=revision, cache_dir=str(cache), local_files_only=True)


def inspected(loaded: Loaded) -> Report:
    return normscope.inspect(loaded, LINES)


@pytest.fixture(scope="module")
def trajectory(cache: Path) -> Trajectory:
    return follow("org/tiny", REVISIONS, inspected, loading=loading(cache))


def test_each_revision_has_the_report_that_it_has_alone(cache: Path, trajectory: Trajectory) -> None:
    assert [(point.revision, point.commit) for point in trajectory.points] == [*COMMITS.items()]
    for revision, report in zip(REVISIONS, trajectory.reports, strict=True):
        alone = normscope.inspect("org/tiny", LINES, loading=loading(cache, revision))
        assert report.to_dict()["layers"] == alone.to_dict()["layers"]
        assert report.model == alone.model


def test_numbers_are_those_of_the_reports_and_their_medians(trajectory: Trajectory) -> None:
    first = trajectory.reports[0]
    for point, report in zip(trajectory.points, trajectory.reports, strict=True):
        agreements, largest, means, spreads = [], [], [], []
        for layer, old, measured in zip(
            point.layers, first.layers.values(), report.layers.values(), strict=True
        ):
            assert measured.agreement
            assert measured.extremes
            assert measured.feature
            assert old.feature
            assert layer.name == measured.name
            agreements.append(measured.agreement["feature"])
            largest.append(measured.extremes.input.value)
            sds = np.sqrt(old.feature.variance), np.sqrt(measured.feature.variance)
            scale = np.sqrt((sds[0] ** 2).sum())
            means.append(np.sqrt(((measured.feature.mean - old.feature.mean) ** 2).sum()) / scale)
            spreads.append(np.sqrt(((sds[1] - sds[0]) ** 2).sum()) / scale)
            assert layer.agreement["feature"] == agreements[-1]
            assert layer.extremes.input.value == largest[-1]
            assert layer.bn_drift.mean == pytest.approx(means[-1])
            assert layer.bn_drift.variance == pytest.approx(spreads[-1])
        assert point.agreement["feature"] == pytest.approx(np.median(agreements))
        assert point.extremes.input.value == pytest.approx(np.median(largest))
        outputs = [measured.extremes.output.value for measured in report.layers.values()]  # type: ignore[union-attr]
        rooms = [65504 / max(pair) for pair in zip(largest, outputs, strict=True)]
        assert point.extremes.output
        assert point.extremes.output.value == pytest.approx(np.median(outputs))
        assert point.extremes.headroom == pytest.approx(np.median(rooms))
        assert point.bn_drift.mean == pytest.approx(np.median(means))
        assert point.bn_drift.variance == pytest.approx(np.median(spreads))
    assert trajectory.points[0].bn_drift.mean == trajectory.points[0].ln_drift.variance == 0
    assert trajectory.points[1].bn_drift.mean > 0.1


def test_equal_weights_under_two_names_are_told(trajectory: Trajectory) -> None:
    first, second, third = trajectory.points
    assert first.weights_sha256 != second.weights_sha256 == third.weights_sha256
    assert [point.same_weights_as for point in trajectory.points] == [None, None, "step2"]
    assert "the weights of step3 equal those of step2, bit by bit" in trajectory.warnings


def test_one_model_is_in_memory_at_a_time(cache: Path) -> None:
    alive: list[Any] = []

    def run(loaded: Loaded) -> Report:
        gc.collect()
        assert not [model for model in alive if model() is not None]
        alive.append(weakref.ref(loaded.model))
        return inspected(loaded)

    follow("org/tiny", REVISIONS[:2], run, loading=loading(cache))
    assert len(alive) == 2


def test_a_stop_ends_after_the_revision_that_runs(cache: Path) -> None:
    stop = Stop()

    def run(loaded: Loaded) -> Report:
        stop.ask()
        return inspected(loaded)

    stopped = follow("org/tiny", REVISIONS, run, loading=loading(cache), stop=stop)
    assert [point.revision for point in stopped.points] == ["step1"]
    assert stopped.warnings[0].endswith("not measured are step2, step3")


def test_json_is_read_back(trajectory: Trajectory) -> None:
    again = Trajectory.from_dict(json.loads(trajectory.to_json()))
    assert again == trajectory
    assert again.to_dict() == trajectory.to_dict()
    data = trajectory.to_dict()
    incomplete: list[Any] = [None, [], data["reports"][:1]]
    for wrong in incomplete:
        with pytest.raises(normscope.NormscopeError, match="a report of each of its points"):
            Trajectory.from_dict({**data, "reports": wrong})
    for point in data["points"]:
        for part in (point, *point["layers"]):
            part["extremes"] = {"input": part["extremes"]["input"]}
    earlier = Trajectory.from_dict(data)
    assert earlier.points[0].extremes.output is None
    cells = {f"{column.title} {column.about}": column.cells for column in revisions(earlier, UNICODE).columns}
    assert {*cells["output largest"], *cells["headroom float16"]} == {"-"}


def test_the_public_function_measures_what_the_reports_have(cache: Path, trajectory: Trajectory) -> None:
    for texts in (LINES, iter(LINES)):
        again = normscope.trajectory("org/tiny", REVISIONS, texts, loading=loading(cache), layers=["*"])
        assert again == trajectory
    assert "3 revisions, medians over" in str(trajectory)
    assert "<td" in trajectory._repr_html_()
    no_lists: list[Any] = ["step1", []]
    for wrong in no_lists:
        with pytest.raises(normscope.NormscopeError, match="put them in a list"):
            normscope.trajectory("org/tiny", wrong, LINES, loading=loading(cache))


def test_files_are_read_or_refused_in_a_line(trajectory: Trajectory, tmp_path: Path) -> None:
    trajectory.to_json(tmp_path / "t.json")
    trajectory.reports[0].to_json(tmp_path / "r.json")
    assert normscope.read_report(tmp_path / "t.json", Trajectory) == trajectory
    with pytest.raises(normscope.NormscopeError, match=r"not a normscope report: .*normscope\.trajectory/1"):
        normscope.read_report(tmp_path / "t.json")
    with pytest.raises(normscope.NormscopeError, match="not a trajectory"):
        normscope.read_report(tmp_path / "r.json", Trajectory)


def test_the_page_has_the_numbers_and_the_equal_weights(trajectory: Trajectory, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    trajectory.to_json(tmp_path / "t.json")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "t.json"), "-o", str(tmp_path / "page.html")])
    assert (done.exit_code, done.stderr) == (0, "")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The weights of step3 equal those of step2, bit by bit." in text
    assert "org/tiny, 3 revisions" in text
    data = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    figures = {figure["id"]: figure["slices"][0]["columns"] for figure in data["parts"][0]["figures"]}
    assert [*figures] == ["part-1-agreements", "part-1-extremes", "part-1-drifts"]
    drawn: dict[str, Callable[[Any], float]] = {
        "agreements": lambda point: point.agreement["feature"],
        "extremes": lambda point: point.extremes.input.value,
        "drifts": lambda point: point.bn_drift.mean,
    }
    for name, read in drawn.items():
        columns = figures[f"part-1-{name}"]
        assert columns["revision"] == REVISIONS * 7
        by_layer = zip(*(point.layers for point in trajectory.points), strict=True)
        values = [read(point) for points in (*by_layer, trajectory.points) for point in points]
        np.testing.assert_allclose(columns["value"], values, rtol=1e-3)
    wanted = pages.picture([tmp_path / "t.json"], "drifts", "svg")
    assert isinstance(wanted, str)
    assert "step2" in wanted


def test_a_page_of_trajectories_and_reports_has_a_part_for_each(trajectory: Trajectory) -> None:
    first, other = trajectory.reports[0], normscope.compare(*trajectory.reports[:2])
    parts = parts_of([other, trajectory, first, trajectory])
    titles = ["org/tiny, 3 revisions", "org/tiny", "org/tiny, 3 revisions"]
    assert [part.title for part in parts] == [*titles, "org/tiny, two reports compared"]


def test_csv_has_every_number_of_the_json(trajectory: Trajectory) -> None:
    rows = [*csv.DictReader(csv_lines(trajectory))]
    of_layers = len(trajectory.points[0].layers)
    assert len(rows) == 8 * 3 * (1 + of_layers)
    for point in trajectory.points:
        for layer in (None, *point.layers):
            part: Any = layer or point
            values = {
                f"{row['view']}.{row['statistic']}": float(row["value"])
                for row in rows
                if (row["revision"], row["layer"]) == (point.revision, layer.name if layer else "")
            }
            assert values == {
                "agreement.feature": part.agreement["feature"],
                "extremes.input.value": part.extremes.input.value,
                "extremes.output.value": part.extremes.output.value,
                "extremes.headroom": part.extremes.headroom,
                "bn_drift.mean": part.bn_drift.mean,
                "bn_drift.variance": part.bn_drift.variance,
                "ln_drift.mean": part.ln_drift.mean,
                "ln_drift.variance": part.ln_drift.variance,
            }
    assert {name for row in rows for name in [f"{row['view']}.{row['statistic']}"]} <= set(ENTRIES)
    lines = [json.loads(line) for line in json_lines(trajectory)]
    assert lines == trajectory.to_dict()["points"]
    columns = {entry.name for entries in columns_of("inspect").values() for entry in entries}
    assert {"bn_drift.mean", "bn_drift.variance", "ln_drift.mean", "ln_drift.variance"} <= columns


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_names_are_text(width: int) -> None:
    made = reports.trajectory()
    points = tuple(replace(point, revision="[red]\x1b[31m|`") for point in made.points)
    text = render_trajectory(replace(made, points=points), screen=Screen(width))
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "[red]" in text
    assert "2 revisions, medians over 1 normalization layer" in text
    assert "same weights as" in render_trajectory_markdown(made)


# The command


def run(cache: Path, *arguments: str, texts: str | None = None) -> Result:
    options = ["--cache-dir", str(cache), "--local-files-only"]
    return CliRunner().invoke(app, ["inspect", "org/tiny", *options, *arguments], input=texts)


def test_the_command_writes_a_table_and_json(cache: Path) -> None:
    table = run(cache, *LINES, "--revision", "step1,step2,step3")
    assert table.exit_code == 0
    assert "3 revisions, medians over" in table.stdout
    assert "warning: the weights of step3 equal those of step2" in table.stderr
    written = json.loads(run(cache, *LINES, "--revision", "step1, step2", "--json", "-q").stdout)
    assert written["schema"] == "normscope.trajectory/1"
    assert [report["schema"] for report in written["reports"]] == ["normscope.report/1"] * 2
    assert "--revision" in written["provenance"]["command"]
    table = run(cache, *LINES, "--revision", "step1,step2", "--format", "csv", "-q")
    assert table.stdout.startswith("revision,layer,view,statistic,value\nstep1,,agreement,feature,0.")


def test_texts_of_a_pipe_and_of_a_file_reach_every_revision(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(LINES), encoding="utf-8")
    for arguments, texts in ((["-"], "\n".join(LINES)), (["-f", str(tmp_path / "texts.txt")], None)):
        done = run(cache, *arguments, "--revision", "step1,step2", "--json", texts=texts)
        counts = [report["run"]["texts"] for report in json.loads(done.stdout)["reports"]]
        assert counts == [len(LINES)] * 2


def test_a_single_revision_gives_a_report(cache: Path) -> None:
    done = run(cache, *LINES, "--revision", "step1", "--json")
    assert json.loads(done.stdout)["schema"] == "normscope.report/1"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--moments", "x.safetensors"], ["--tensors", "x.safetensors"], ["--checkpoint", "x.ckpt"],
        ["--checkpoint", "x.ckpt", "--resume"], ["--plot"], ["--shard", "1/2"], ["--dry-run"], ["--details"],
        ["--depth"],
    ],
)  # fmt: skip
def test_what_makes_no_sense_with_several_is_refused_in_a_line(
    arguments: list[str], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(cache, *LINES, "--revision", "step1,step2", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "several revisions" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_an_empty_name_and_an_unknown_one_are_refused(cache: Path) -> None:
    for text, said in (("step1,", "has an empty name"), ("step1,nothing", "at revision 'nothing'")):
        done = run(cache, *LINES, "--revision", text)
        assert done.exit_code in (1, 2)
        assert said in done.stderr.splitlines()[-1]
