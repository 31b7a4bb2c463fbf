"""The page's first view and the style of its charts: main numbers, findings, short names, colours, axes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from normscope.render.findings import findings
from normscope.render.inspect import WIDE
from normscope.render.numbers import short
from normscope.render.page import charts_heatmaps as maps
from normscope.render.page.captions import by_layer
from normscope.render.page.chart_style import BN, LN, log_ticks
from normscope.render.page.parts import parts_of
from normscope.render.page.write import page
from normscope.results.common import Pooled
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.inspect import LayerReport
from tests.render.test_page import BREAKING, Parsed, data, drawn, every_figure, of_one_model, one
from tests.results.test_json_schema import why
from tests.support import reports
from tests.support.reports import MINILM


def test_main_numbers_stand_in_four_tiles() -> None:
    report = reports.minilm()
    numbers = drawn(report)["agreement"].tiles
    values = [(layer.agreement or {})["feature"] for layer in report.layers.values()]
    assert [tile.number for tile in numbers] == [short(float(np.median(values)))]
    assert numbers[0].about == f"median layer; {short(min(values))} to {short(max(values))}"
    for results in ([report], of_one_model(), [why()], [reports.comparison()], [reports.report([])]):
        parsed = Parsed(page(results))
        assert parsed.having("class").count("number") == 4 * len(parts_of(results))


def test_findings_are_those_of_the_terminal_with_short_names_and_full_ones_as_tooltips() -> None:
    report = reports.minilm()
    parsed = Parsed(page([report]))
    full = "".join(parsed.texts)
    labels = dict(zip(MINILM, one(report).labels, strict=True))
    sentences = "\n".join(findings(report, WIDE))
    for name in sorted(labels, key=len, reverse=True):
        sentences = sentences.replace(name, labels[name])
    assert not [sentence for sentence in sentences.splitlines() if sentence not in full]
    tooltips = [attrs["title"] for name, attrs in parsed.elements if name == "abbr"]
    assert tooltips
    assert set(tooltips) <= set(MINILM)
    assert not [label for label in labels.values() if label.startswith("…")]


def test_one_part_has_no_navigation() -> None:
    assert "nav" not in [name for name, _ in Parsed(page([reports.minilm()])).elements]
    assert "nav" in [name for name, _ in Parsed(page([reports.minilm(), reports.llama()])).elements]


def test_tokens_of_few_texts_are_shown_as_text() -> None:
    pooled = Pooled((("[CLS]", *BREAKING), ("[CLS]", "b")))
    parsed = Parsed(page([replace(reports.minilm(), pooled=pooled)]))
    text = "".join(parsed.texts)
    assert "What BatchNorm pools: tokens by position" in text
    assert "BatchNorm over flattened texts" in text
    assert not [name for name, _ in parsed.elements if name in ("img", "b", "iframe")]
    assert "What BatchNorm pools" not in page([reports.minilm()])


def test_what_is_read_without_opening_details_has_no_internal_names() -> None:
    names = [name for name in ENTRIES if "." in name or "_" in name]
    for figure in every_figure():
        for part in figure.slices:
            for said in (figure.title, *figure.notes, part.says if part else ""):
                assert not [name for name in names if name in said], said


# Charts' axes and colours


def test_ln_and_bn_have_one_colour_each() -> None:
    by_name = {figure.name: json.dumps(figure.spec) for figure in every_figure()}
    colours = {name: {each for each in (LN, BN) if each in spec} for name, spec in by_name.items()}
    assert colours["profile"] == colours["scatter"] == {LN, BN}
    assert colours["agreement"] == colours["noise"] == colours["damage"] == colours["movers"] == {BN}
    assert colours["explained"] == colours["positions"] == colours["features"] == set()
    profile = json.loads(by_name["profile"])["layer"]
    assert profile[0]["mark"]["color"] == LN  # the band
    assert profile[1]["encoding"]["color"]["scale"] == {
        "domain": ["LN", "BN per position", "BN per feature"],
        "range": [LN, BN, BN],
    }


@pytest.mark.parametrize(("special", "apart"), [("include", True), ("exclude", False)])
def test_the_first_position_sets_no_colours_unless_special_tokens_are_left_out(
    special: str, apart: bool
) -> None:
    report = reports.minilm()
    layer = reports.layer("a", positions=9)
    assert layer.position
    first = layer.position.token_variance.copy()
    first[0] = 1e4
    layer = replace(layer, position=replace(layer.position, token_variance=first))
    report = replace(reports.report([layer]), run=replace(report.run, special_tokens=special))
    figure = maps.positions(one(report), report)
    assert figure
    scale = figure.spec["encoding"]["color"]["scale"]
    values = [row["value"] for row in data(figure) if row["low"] or not apart]
    low, high = scale["domain"]
    assert low <= min(values) < 1.1 * low + 1e-9
    assert high / 1.1 - 1e-9 < max(values) <= high
    assert scale["clamp"] is apart
    assert any("[CLS]" in note for note in figure.notes) is apart


def test_many_layers_are_columns_and_few_are_rows() -> None:
    for count, axis in ((40, "y"), (41, "x")):
        report = reports.report([reports.layer(f"blocks.{i}.norm", i) for i in range(count)])
        encoding = drawn(report)["explained"].spec["encoding"]
        assert encoding[axis]["field"] == "label"


def test_the_spread_of_tokens_is_a_band_and_reports_without_it_have_none() -> None:
    report = reports.minilm()
    layer = report.layers[MINILM[0]]
    assert layer.position
    spread = layer.position.token_variance * np.linspace(0.1, 3, len(layer.position.count))
    wide = replace(layer, position=replace(layer.position, token_variance_std=spread))
    figure = drawn(replace(report, layers={**report.layers, layer.name: wide}))["profile"]
    assert layer.feature
    curves = [*layer.position.token_variance, *layer.position.variance, layer.feature.variance.mean()]
    floor = min(curves) / 2  # a log axis cannot reach 0
    for row, average, sd in zip(data(figure), layer.position.token_variance, spread, strict=True):
        assert row["sd"] == pytest.approx(sd, rel=1e-3)
        assert row["high"] == pytest.approx(average + sd, rel=1e-3)
        assert row["low"] == pytest.approx(max(average - sd, floor), rel=1e-3)
    assert "band" in figure.notes[0]
    plain = drawn(replace(report, layers={layer.name: _without_spread(layer)}))["profile"]
    assert {(row["low"], row["high"], row["sd"]) for row in data(plain)} == {(None, None, None)}
    assert plain.notes == []


def _without_spread(layer: LayerReport) -> LayerReport:
    assert layer.position
    return replace(layer, position=replace(layer.position, token_variance_std=None))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.01, 100.0, [0.01, 0.1, 1.0, 10.0, 100.0]),
        (1e-9, 1e9, [1e-9, 1e-5, 1e-1, 1e3, 1e7]),
        (0.15, 8.0, [0.2, 0.5, 1.0, 2.0, 5.0]),
        (6.9, 7.0, [6.9, 7.0]),
    ],
)
def test_log_legends_have_round_numbers_within_their_scale(
    low: float, high: float, ticks: list[float]
) -> None:
    assert log_ticks(low, high) == ticks


def test_labels_are_names_not_numbers_where_these_fit() -> None:
    stages = [f"net.stages.{i}.layers.{j}.layer.{k}.norm" for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    (part,) = parts_of([reports.report([reports.layer(name, i) for i, name in enumerate(stages)])])
    assert part.labels[1] == "0.layers.0.layer.1"


def test_captions_begin_with_a_capital_and_name_what_was_fed() -> None:
    report = reports.mixed()
    images = replace(report, run=replace(report.run, medium="image"))
    figures = drawn(images)
    rows, shares = figures["positions"].slices[0], figures["explained"].slices[0]
    assert rows
    assert rows.says.startswith("The layer's variance")
    assert figures["positions"].title == "Where in the image does the scale differ?"
    assert shares
    assert set(shares.columns["by"]) == {"position", "image"}


def test_numbers_that_are_equal_in_every_layer_are_said_once() -> None:
    assert by_layer(np.array([0.501, 0.501, 0.5011])) == "in every layer"
    assert by_layer(np.array([0.5, 0.6])) == "median layer; 0.500 to 0.600"
