"""Plots: golden files, what must hold for any report at any width, and numbers on few cells."""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from normscope.render.axis_downsampling import AxisRuns
from normscope.render.batch_plots import render_batch_plots
from normscope.render.curves import Curve, curve_grid
from normscope.render.glyphs import ASCII, UNICODE
from normscope.render.grid import Grid
from normscope.render.heatmap import RAMP, HeatMap, draw_heat_map
from normscope.render.input_output import curve_sections
from normscope.render.inspect import render_report
from normscope.render.plots import feature_map, position_map, render_plots
from normscope.render.terminal import Screen, render_parts, render_sections
from normscope.results.inspect import LayerReport, Report
from tests.support import reports
from tests.support.reports import MINILM, NAN

Golden = Callable[[str, str], None]
MAKERS = [reports.minilm, reports.worded, reports.llama, reports.mixed, reports.hostile]
ESCAPES = re.compile(r"\x1b\[[\d;]*m")


@pytest.mark.parametrize("width", [80, 200])
def test_golden_plots(width: int, golden: Golden) -> None:
    golden(f"plot-minilm-{width}.txt", render_plots(reports.minilm(), screen=Screen(width)))
    golden(f"plot-batches-{width}.txt", render_batch_plots(reports.batch_report(), screen=Screen(width)))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_golden_curves(width: int, golden: Golden) -> None:
    report = reports.curved(reports.minilm())
    screen = Screen(width, unicode=width > 60)
    (section,) = curve_sections(report, MINILM[:1], screen)
    golden(f"curve-{width}.txt", render_sections([section], screen))
    (picture,) = section.grids
    assert isinstance(picture, Grid)
    _, drawn = picture.columns
    curve = report.layers[MINILM[0]].curve
    assert curve
    wide = len(drawn.cells[0])
    assert wide == (32 if width == 60 else 64)
    counts = curve.histogram().reshape(wide, 64 // wide, 16, 4).sum((1, 3)).T[::-1]
    assert [[cell != " " for cell in row] for row in drawn.cells] == (counts > 0).tolist()
    darkest = np.unravel_index(counts.argmax(), counts.shape)
    assert drawn.cells[darkest[0]][darkest[1]] == screen.glyphs.shades[-1]


def test_a_curve_is_below_the_tables_and_among_the_plots() -> None:
    report = reports.curved(reports.minilm())
    for text in (render_report(report), render_plots(report, layers=MINILM[:2])):
        assert "Output against input" in text
    assert render_plots(report, layers=MINILM[:2]).count("Output against input") == 2
    assert "Output against input" not in render_report(reports.minilm())


def test_golden_ascii_plots(golden: Golden) -> None:
    text = render_plots(reports.mixed(), screen=Screen(100, unicode=False))
    golden("plot-mixed-ascii-100.txt", text)
    batches = render_batch_plots(reports.batch_report(), screen=Screen(unicode=False))
    assert text.isascii()
    assert batches.isascii()


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [1, 60, 79, 133, 300])
def test_plots_fit(make: Callable[[], Report], width: int) -> None:
    report = make()
    text = render_plots(report, layers=[*report.layers][:5], screen=Screen(width))
    assert max(map(cell_len, text.splitlines())) <= max(width, 60)
    for part in ("0.980 ███", "BN's variance by position", "BN's sd by feature", "By position"):
        assert part in text
    names = [f"n{i}" for i in range(3)] if make is reports.minilm else [*report.layers]
    batches = render_batch_plots(reports.batch_report(names), screen=Screen(width))
    assert max(map(cell_len, batches.splitlines())) <= max(width, 60)


def test_colour_changes_nothing_but_colour() -> None:
    screens = Screen(100), Screen(100, colour=True)
    for plain, few in (
        [render_plots(reports.hostile(), layers=reports.HOSTILE, screen=screen) for screen in screens],
        [render_batch_plots(reports.batch_report(reports.HOSTILE), screen=screen) for screen in screens],
    ):
        assert "\x1b[35m" in few
        assert [line.rstrip() for line in ESCAPES.sub("", few).split("\n")] == plain.split("\n")
        assert all(c == "\n" or c.isprintable() for c in plain)
        assert "\x1b" not in plain


def test_a_palette_paints_cells() -> None:
    text = render_plots(reports.minilm(), screen=Screen(80, colour=True, palette=True))
    painted = re.findall(r"\x1b\[38;5;(\d+);48;5;(\d+)m", text)
    assert {int(found) for found, _ in painted} == set(RAMP)
    assert all(ink == paper for ink, paper in painted)
    plain = render_plots(reports.minilm()).split("\n")
    copied = [line.rstrip() for line in ESCAPES.sub("", text).split("\n")]
    different = [line for line, other in zip(copied, plain, strict=True) if line != other]
    assert all("log scale: times" in line for line in different)
    assert "\x1b[" not in render_plots(reports.minilm(), screen=Screen(80, palette=True))


@pytest.mark.parametrize(
    "layers", [[], [reports.uncalled("n")], [reports.layer("n", features=1, positions=1)]]
)
def test_hardly_anything_measured(layers: list[LayerReport]) -> None:
    report = reports.report(layers)
    for unicode in (True, False):
        text = render_plots(report, layers=[*report.layers], screen=Screen(unicode=unicode))
        assert f"{len(layers)} normalization layer" in text
        assert "nan" not in text.lower()


def test_batches_without_any_noise_known() -> None:
    report = reports.batch_report()
    none = {name: replace(layer, sizes=None) for name, layer in report.layers.items()}
    text = render_batch_plots(replace(report, layers=none), layers=MINILM[:1])
    assert "no batches could be formed" in text
    assert "nan" not in text.lower()


def test_noise_is_on_one_scale() -> None:
    text = render_batch_plots(reports.batch_report(MINILM[:3]))
    rows = re.findall(r"(\S+) ([▁-█]+) (\S+)", text.split("Noise of a batch's mean")[0])
    heights = {float(number): stairs[end] for a, stairs, b in rows for number, end in ((a, 0), (b, -1))}
    assert [heights[value] for value in sorted(heights)] == sorted(heights.values())
    assert heights[max(heights)] == "█"
    assert heights[min(heights)] == "▁"


def test_positions_are_relative_to_the_layer_and_features_to_the_median() -> None:
    report = reports.mixed()
    positions, features = position_map(report), feature_map(report)
    assert positions
    assert features
    measured = [layer for layer in report.layers.values() if layer.position]
    assert positions.names == [layer.name for layer in measured]
    for row, layer in zip(positions.values, measured, strict=True):
        assert layer.position
        assert layer.global_
        for t, variance in enumerate(layer.position.variance):
            assert row[t] == pytest.approx(variance / layer.global_.variance)
        assert np.isnan(row[len(layer.position.variance) :]).all()
    first = next(iter(report.layers.values())).feature
    assert first
    sds = sorted(math.sqrt(variance) for variance in first.variance)
    median = (sds[23] + sds[24]) / 2
    assert features.values[0, 5] == pytest.approx(math.sqrt(first.variance[5]) / median)


def test_features_of_other_widths_are_left_out() -> None:
    layers = [reports.layer(f"n{i}", features=48 if i else 8) for i in range(3)]
    found = feature_map(reports.report(layers))
    assert found
    assert (found.names, found.values.shape) == (["n1", "n2"], (2, 48))
    assert found.notes[-1] == "1 layer of other widths left out."


def test_a_heat_map_puts_shades_in_order() -> None:
    values = np.array([[1.0, 10.0, 100.0, NAN], [0.0, 1.0, 1.0, 1000.0]])
    for screen in (Screen(60), Screen(60, unicode=False)):
        text = render_parts(draw_heat_map(HeatMap("h", ["a", "b"], values, "axis", "units"), screen), screen)
        lines = text.splitlines()
        shades = screen.glyphs.shades
        at = [int(len(shades) * share + 1e-9) for share in (0, 1 / 3, 2 / 3)]
        low, *middle = (shades[i] for i in at)
        row = "".join(cell * 3 for cell in (low, *middle)).rstrip()
        assert lines[2] == f"a     {row}"
        assert lines[3] == f"b        {low * 6}{shades[-1] * 3}"
        assert lines[4] == "axis  0     2  3"
        assert lines[6] == f"1.0 {shades} 1000  log scale: units"


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 150), st.booleans())
def test_runs_cover_the_axis_once(length: int, room: int, late: bool) -> None:
    runs = AxisRuns.over(length, room, late=late)
    starts = list(runs.starts)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < length
    assert len(starts) * runs.wide <= max(room, length if length <= room else 0)
    ticks = runs.ticks()
    assert ticks.endswith(str(length - 1))
    for found in re.finditer(r"\d+", ticks[: -len(str(length - 1))]):
        assert starts[found.start() // runs.wide] == int(found[0])


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(NAN)), min_size=1, max_size=60), st.integers(1, 80))
def test_runs_reduce_as_a_plain_loop_does(numbers: list[float], room: int) -> None:
    runs = AxisRuns.over(len(numbers), room, late=True)
    ends = [*runs.starts, len(numbers)]
    parts = [[value for value in numbers[a:b] if not math.isnan(value)] for a, b in itertools.pairwise(ends)]
    means = [math.fsum(part) / len(part) if part else NAN for part in parts]
    np.testing.assert_allclose(runs.reduce(np.array(numbers)), means, rtol=1e-9, atol=1e-6)
    most = [max(part) if part else NAN for part in parts]
    np.testing.assert_array_equal(runs.reduce(np.array(numbers), "max"), most)


def test_the_first_positions_stand_alone() -> None:
    runs = AxisRuns.over(512, 40, late=True)
    assert list(runs.starts)[:4] == [0, 1, 2, 3]
    assert runs.longest == max(b - a for a, b in zip(runs.starts, [*runs.starts[1:], 512], strict=True))
    assert AxisRuns.over(4, 40) == AxisRuns(4, range(4), 3)


def test_curves_say_their_ends_and_draw_between_them() -> None:
    grid = curve_grid(
        "h", [Curve("a", np.array([1.0, 10.0, 100.0]), log=True), Curve("b", np.array([3.0, NAN, 1.0]))],
        "rank", Screen(60), [],
    )  # fmt: skip
    names, minimum, line, maximum = (column.cells for column in grid.columns)
    assert names == ["a, log", "b"]
    assert line == ["▁▁▁▅▅▅███", "███   ▁▁▁"]
    assert [cell.strip() for cell in (*minimum, *maximum)] == ["1.00", "1.00", "100", "3.00"]


def test_shades_are_told_apart_from_nothing() -> None:
    for glyphs in (UNICODE, ASCII):
        assert glyphs.shade(NAN) == " "
        assert [glyphs.shade(x) for x in (-1, 0, 1, 2)] == [glyphs.shades[i] for i in (0, 0, -1, -1)]
        assert " " not in glyphs.shades


def test_tables_come_below_the_drawings_when_asked() -> None:
    bare, both = render_plots(reports.minilm()), render_plots(reports.minilm(), tables=3)
    table = "feature  BN mean"
    assert table not in bare
    assert both.index(table) > both.index("By feature, each row sorted")
    assert "Outlier features" in both
    assert "3 of 48 features" in both
