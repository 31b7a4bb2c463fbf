"""The first screen: its size, its findings, its legend, the rows of deep models, and the user's own words."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from normscope.render.findings import cautions, findings
from normscope.render.glyphs import UNICODE
from normscope.render.grid import fit
from normscope.render.inspect import render_report, render_report_markdown
from normscope.render.layer_groups import MAX_ROWS, choose_rows
from normscope.render.pooled import means_grid, pooled_grid
from normscope.render.sparklines import feature_lines, position_lines, relative_by_position
from normscope.render.summary import summary
from normscope.render.terminal import Screen
from normscope.results.common import Pooled
from normscope.results.inspect import LayerReport, Report, StoredGap
from tests.support import reports
from tests.support.reports import MINILM, NAN

Golden = Callable[[str, str], None]
MAKERS = [reports.minilm, reports.worded, reports.llama, reports.mixed, reports.hostile]


@pytest.mark.parametrize("make", [*MAKERS, reports.few_texts, reports.deep], ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [80, 100, 160])
def test_golden_screens(make: Callable[[], Report], width: int, golden: Golden) -> None:
    golden(f"{make.__name__}-{width}.txt", render_report(make(), screen=Screen(width)))


@pytest.mark.parametrize("make", [reports.minilm, reports.llama, reports.mixed, reports.deep])
def test_a_screen_of_24_lines_holds_it(make: Callable[[], Report]) -> None:
    assert len(render_report(make(), screen=Screen(80)).splitlines()) <= 24


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [60, 80, 100, 160, 300])
def test_the_legend_is_of_the_columns_shown(make: Callable[[], Report], width: int) -> None:
    report, screen = make(), Screen(width)
    grid = fit(summary(report, [*report.layers.values()], [], screen), width, "…")
    titles = {f"{column.title} {column.about}" for column in grid.columns}
    for entry in grid.legend:
        name = entry.partition(":")[0]
        assert any(name in title for title in titles), name
    text = render_report(report, screen=screen)
    assert ("explains: " in text) == any("explains" in title for title in titles)
    assert ("BN by: " in text) == any("BN by" in title for title in titles)
    assert ("best BN: " in text) == any("best BN" in title for title in titles)
    assert ("rms ratio: " in text) == any("rms ratio" in title for title in titles)


# Findings


def sentences(report: Report, width: int = 400) -> list[str]:
    return findings(report, Screen(width))


def test_the_extremes_of_the_agreement_are_named() -> None:
    report = reports.minilm()
    numbers = {name: (layer.agreement or {})["feature"] for name, layer in report.layers.items()}
    best, worst = max(numbers, key=lambda n: numbers[n]), min(numbers, key=lambda n: numbers[n])
    assert sentences(report)[0].startswith(
        f"BN could stand in for LN best at {best} (agreement {numbers[best]:.2f}), "
        f"worst at {worst} ({numbers[worst]:.2f}); median {np.median([*numbers.values()]):.2f}; "
    )
    short = sentences(report, 80)[0]
    assert short.startswith("BN fits best at embeddings (0.98), worst at ")
    assert "2.attention.output (0.62)" in short
    silent = [replace(layer, agreement=None) for layer in report.layers.values()]
    assert "was not measured" in sentences(reports.report(silent))[0]


def test_equal_layers_have_no_best_and_worst() -> None:
    layers = list(reports.minilm().layers.values())
    alike = [replace(layer, agreement={"feature": 0.501 + i / 1e4}) for i, layer in enumerate(layers)]
    assert sentences(reports.report(alike))[0].startswith("BN fits every layer alike: agreement 0.50; ")
    share = replace(layers[0].explained.position, epsilon2=0.04) if layers[0].explained else None
    assert share is not None
    same = [replace(x, explained=replace(x.explained, position=share)) for x in layers if x.explained]
    assert sentences(reports.report(same))[1].startswith(
        "Position explains 4.0% of the variance in every layer"
    )


def test_batchnorms_are_compared_with_what_they_store() -> None:
    norm, *others = reports.minilm().layers.values()
    first = replace(norm, kind="batchnorm", stored_gap=StoredGap(0.25, 1.0), agreement={"feature": 1.0})
    second = replace(first, name="second", index=1, stored_gap=StoredGap(0.5, 1.0))
    images = replace(reports.minilm().run, medium="image")
    only = replace(reports.report([first, second]), run=images)
    expected = "BatchNorms only: stored means differ from these images' by 0.25 to 0.50 sd; most at second."
    assert sentences(only)[0] == expected
    assert render_report(only).splitlines()[-1] == "more: --details, --plot, normscope explain agreement"
    bare = [replace(layer, stored_gap=None) for layer in (first, second)]
    assert sentences(reports.report(bare))[0] == "Every layer is a BatchNorm already."
    assert first.name not in sentences(reports.report([first, *others]))[0]


@pytest.mark.parametrize(("special", "said"), [("include", "included"), ("exclude", "excluded"), (None, "")])
def test_the_share_of_position_says_which_tokens_count(special: str | None, said: str) -> None:
    report = reports.minilm()
    sentence = sentences(replace(report, run=replace(report.run, special_tokens=special)))[1]
    tokens = f", special tokens {said}" if said else ""
    assert sentence.startswith(f"Position explains up to 15.0% of the variance{tokens}; most at {MINILM[0]}")
    assert "--" not in sentence  # the page shows it, too


def test_the_least_share_is_shown_where_it_is_over_zero() -> None:
    report = reports.minilm()
    layers = list(report.layers.values())
    for number, layer in enumerate(layers):
        assert layer.explained is not None
        share = replace(layer.explained.position, epsilon2=0.02 + 0.01 * number)
        layers[number] = replace(layer, explained=replace(layer.explained, position=share))
    most = 2 + len(layers) - 1
    shown = sentences(reports.report(layers))[1]
    assert shown.startswith(f"Position explains 2.0% to {most:.1f}% of the variance")


def test_what_one_text_cannot_show_is_said() -> None:
    report = reports.minilm()
    layers = [replace(layer, explained=None) for layer in report.layers.values()]
    bare = reports.report(layers)
    assert sentences(bare)[1] == "How much position explains was not measured."
    alone = replace(bare, run=replace(bare.run, texts=1, medium="image"))
    assert sentences(alone)[1].startswith("One image cannot show what position explains")


def test_features_that_stand_out_are_counted() -> None:
    report = reports.minilm()
    assert sentences(report)[2].startswith(
        "Features that stand out: 20 (10 of 13 layers), 7 (7 of 13); outlier: "
    )
    many = tuple(replace(report.outlier_features[0], feature=i) for i in range(5))
    assert "2 (10 of 13); 2 more; " in sentences(replace(report, outlier_features=many))[2]
    assert "No feature stands out" in sentences(replace(report, outlier_features=()))[2]
    bare = [replace(layer, outliers=None) for layer in report.layers.values()]
    assert "not measured" in sentences(reports.report(bare))[2]


def test_texts_that_make_numbers_unsure_are_facts() -> None:
    run = reports.minilm().run
    assert cautions(run) == []
    rough = replace(run, texts=29, tokens=200, unknown_tokens=3, repeated_texts=2)
    assert cautions(rough) == ["few texts: rough numbers", "1.5% unknown tokens", "2 repeated texts"]
    assert cautions(replace(run, texts=0, tokens=0)) == []


@pytest.mark.parametrize("width", [1, 60, 80, 100, 160, 300])
def test_findings_fit_in_one_line_where_names_can_be_cut(width: int) -> None:
    for make in (reports.minilm, reports.llama, reports.deep):
        lines = findings(make(), Screen(width))
        assert len(lines) == 3
        assert width < 80 or max(map(cell_len, lines)) <= width


# Sparklines


def test_lines_of_all_layers_have_one_scale() -> None:
    flat, steep = (reports.layer(f"n{i}") for i in range(2))
    assert flat.position is not None
    assert steep.position is not None
    assert steep.global_ is not None
    ones = np.full(40, steep.global_.variance)
    rising = ones * np.geomspace(0.1, 10, 40)
    layers = [
        replace(flat, position=replace(flat.position, variance=ones)),
        replace(steep, position=replace(steep.position, variance=rising)),
    ]
    first, second = position_lines(layers, 9, UNICODE)
    assert set(first) == {UNICODE.levels[3]} or set(first) == {UNICODE.levels[4]}
    assert (second[0], second[-1]) == ("▁", "█")
    assert list(second) == sorted(second)
    np.testing.assert_allclose(relative_by_position(layers[0]), 1)


def test_a_cell_of_features_is_its_largest() -> None:
    layer = reports.layer("n")
    assert layer.feature is not None
    variance = np.ones(48)
    variance[13] = 100.0
    (line,) = feature_lines([replace(layer, feature=replace(layer.feature, variance=variance))], 6, UNICODE)
    assert line == "▁█▁▁▁▁"


def test_layers_without_positions_have_no_line() -> None:
    layers = [reports.layer("n", position=None), reports.uncalled("m")]
    assert position_lines(layers, 7, UNICODE) == ["", ""]
    assert feature_lines(layers, 7, UNICODE)[1] == ""


# Deep models


def test_a_deep_model_shows_ends_and_extremes_and_counts_the_rest() -> None:
    report = reports.deep()
    layers = [*report.layers.values()]
    rows = choose_rows(layers, (), every=False)
    names = [layer.name for layer in rows.layers]
    assert len(names) <= MAX_ROWS
    assert len(names) + sum(rows.hidden.values()) == len(layers) == 161
    for place in ("input_layernorm", "post_attention_layernorm"):
        group = [layer for layer in layers if layer.name.endswith(place)]
        by_agreement = sorted(group, key=lambda layer: (layer.agreement or {})["feature"])
        ends = {group[0].name, group[-1].name}
        assert {*ends, by_agreement[0].name} <= set(names)
        best = max((layer.agreement or {})["feature"] for layer in group)
        assert any((x.agreement or {})["feature"] == best for x in rows.layers if x in group)
        assert rows.hidden[f"model.layers.*.{place}"] == 80 - sum(name.endswith(place) for name in names)
    assert "model.norm" in names
    text = render_report(report)
    assert f"{sum(rows.hidden.values())} more: " in text
    assert "--layers all" in text


def test_wanted_layers_have_rows_and_all_layers_if_asked() -> None:
    report = reports.deep()
    wanted = "model.layers.41.input_layernorm"
    rows = choose_rows([*report.layers.values()], [wanted], every=False)
    assert wanted in [layer.name for layer in rows.layers]
    everything = render_report(report, every_layer=True, screen=Screen(200))
    assert all(f"\n{name} " in everything for name in report.layers)
    assert "--layers all" not in everything
    markdown = render_report_markdown(report).replace("\\_", "_")
    assert all(f"| {name} |" in markdown for name in report.layers)


def test_few_layers_all_have_rows() -> None:
    layers = [*reports.minilm().layers.values()]
    assert choose_rows(layers, (), every=False).layers == layers


def test_many_groups_have_one_row_each() -> None:
    layers = [reports.layer(f"{'abcdefghij'[i % 10]}.{i}.norm", i % 12) for i in range(60)]
    rows = choose_rows(layers, (), every=False)
    assert len(rows.layers) == 10
    assert rows.note("…")[0].startswith("50 more: 5 a.*.norm, 5 b.*.norm, 5 c.*.norm, 7 groups more; ")
    unknown = [replace(layer, agreement={"feature": NAN}) for layer in layers]
    assert len(choose_rows(unknown, (), every=False).layers) == 10


# The user's own words


def test_the_words_of_a_few_texts_are_shown() -> None:
    report = reports.few_texts()
    text = render_report(report, screen=Screen(100))
    assert re.search(r"^1 +\[CLS\] +the +\[red\]cat +sat +\[SEP\]$", text, re.MULTILINE)
    assert re.search(r"^2 +\[CLS\] +\\x1b\[31mrain +层归一化 +\[SEP\]$", text, re.MULTILINE)
    assert "What BatchNorm pools" not in render_report(reports.minilm())
    assert r"\[red\]cat" in render_report_markdown(report)


def test_every_norm_takes_its_means_of_all_numbers() -> None:
    report = reports.few_texts()
    grid = means_grid(report)
    assert grid is not None
    means = [int(cell.replace(",", "")) for cell in grid.columns[2].cells]
    numbers = [float(cell.replace(",", "")) for cell in grid.columns[3].cells]
    assert means == [9, 2, 48, 5, 5 * 48]
    assert all(
        math.isclose(n * each, 9 * 48, abs_tol=0.05 * n) for n, each in zip(means, numbers, strict=True)
    )
    assert means_grid(replace(report, layers={"n": reports.uncalled("n")})) is None


def test_long_texts_and_tokens_are_cut() -> None:
    grid = pooled_grid(Pooled((("a" * 40, *map(str, range(40))), ())))
    assert len(grid.columns) == 17
    assert max(cell_len(column.cells[0]) for column in grid.columns) == 14
    assert grid.columns[5].cells == ["3", ""]
    assert "41 positions" in grid.heading


# Details


def test_details_come_when_asked_and_say_why_this_layer() -> None:
    report = reports.minilm()
    first = render_report(report)
    assert "By position" not in first
    more = "normscope explain agreement; to try BN: normscope swap"
    assert first.splitlines()[-1] == f"more: --details, --plot, {more}"
    for shown in (render_report(report, detailed=True), render_report(report, layers=MINILM[:1])):
        assert shown.startswith(first.partition("\n")[0])
        for part in ("By position", "By feature", "Outlier features"):
            assert part in shown
        assert shown.splitlines()[-1] == f"more: --plot, {more}"
    assert "Shown since it agrees least with BN" in render_report(report, detailed=True)
    assert "Shown since" not in render_report(report, layers=MINILM[:1])


def test_the_spread_at_a_position_is_shown_where_it_is_known() -> None:
    report = reports.minilm()
    layer = report.layers[MINILM[0]]
    assert layer.position is not None
    assert layer.position.token_variance_std is not None
    text = render_report(report, layers=MINILM[:1])
    row = re.search(r"^ 0 .*$", text, re.MULTILINE)
    assert row is not None
    numbers = [float(cell) for cell in re.findall(r"\d+\.\d+", row[0])]
    mean, spread, one = (
        layer.position.token_variance[0], layer.position.token_variance_std[0], layer.position.variance[0],
    )  # fmt: skip
    assert layer.position.far is not None
    np.testing.assert_allclose(numbers[-4:], [mean, spread, 100 * layer.position.far[0], one], rtol=6e-3)
    unknown = dict.fromkeys(("std", "min", "max"))
    parts: dict[str, Any] = {f"token_variance_{name}": value for name, value in unknown.items()}
    old = replace(layer, position=replace(layer.position, **parts, far=None))
    before = render_report(reports.report([old]), detailed=True)
    assert "spread" not in before
    assert "spread" in text


def test_details_say_what_an_rmsnorm_does() -> None:
    said = "rmsnorm: divides by the root mean square"
    assert said in render_report(reports.llama(), detailed=True)
    assert said not in render_report(reports.llama())
    assert said not in render_report(reports.minilm(), detailed=True)


@pytest.mark.parametrize("layers", [[], [reports.uncalled("n")]])
def test_an_empty_report_has_a_screen(layers: list[LayerReport]) -> None:
    for text in (render_report(reports.report(layers)), render_report(reports.report(layers), detailed=True)):
        assert "nan" not in text.lower()
        assert text.splitlines()[-1].startswith("more: ")


def test_findings_name_layers_as_the_table_does() -> None:
    text = render_report(reports.minilm())
    sentence, table = text.partition("BN fits best at ")[2].split("\n", maxsplit=1)
    named = re.findall(r"(?:^|at )(\S+) \(", sentence)
    assert len(named) == 2
    assert {line.split()[0] for line in table.splitlines() if line} >= set(named)
