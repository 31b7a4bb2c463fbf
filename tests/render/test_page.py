"""The page and its charts: what is drawn is what the reports say, and strings stay text."""

import base64
import hashlib
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import normscope
from normscope.cli.app import app
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable
from normscope.render.html_markup import Markup, embedded, join, tag
from normscope.render.numbers import short
from normscope.render.page import charts_all_layers as overview
from normscope.render.page import charts_heatmaps as maps
from normscope.render.page.figure import Figure, rounded, rows, table
from normscope.render.page.parts import PagePart, headings, parts_of
from normscope.render.page.sections import CHARTS, figures
from normscope.render.page.vega import svg
from normscope.render.page.write import page
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.reading import read_saved
from normscope.results.why import Evidence, Finding, Interval
from tests.results.test_json_schema import MAKERS, why
from tests.support import reports
from tests.support.reports import HOSTILE, MINILM, NAN

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
KINDS = ("report", "batches", "swap", "why", "compare")
BREAKING = [*HOSTILE, '"><img src=x onerror=alert(1)>', "\u2028a\u2029b", "<!--", "${1}`{{", "a.b[0]['c']"]


def of_one_model() -> list[Any]:
    """A result of each command about MiniLM, and a comparison."""
    about = replace(why(), model=reports.minilm().model)
    return [
        reports.curved(reports.profiled()),
        reports.batch_report(),
        about,
        reports.swap_report(id=MODEL, head=None),
        reports.comparison(),
    ]


@cache
def every_figure() -> tuple[Figure, ...]:
    return tuple(
        figure for part in parts_of([*of_one_model(), reports.trajectory()]) for figure in figures(part)
    )


@cache
def whole_page() -> str:
    return page(of_one_model())


def breaking() -> list[Any]:
    """Results whose every string tries to be something else."""
    layers = [
        reports.layer(name, i, kind=name, module=name, affine=name, outliers=reports.standing_out(i))
        for i, name in enumerate(BREAKING)
    ]
    whole = reports.report(layers, id="".join(BREAKING), warnings=BREAKING)
    swap = replace(reports.swap_report(BREAKING, id="".join(BREAKING)), kind=BREAKING[4], warnings=())
    finding = why().claims[0]
    claims = [
        Finding(s, s, (Evidence(s, s, Interval(1.0)),), s, 0.0, s, s, s) if s else finding for s in BREAKING
    ]
    said = replace(why(), model=whole.model, claims=tuple(claims), warnings=tuple(BREAKING))
    moves = reports.trajectory()
    points = [replace(point, revision=s) for point, s in zip(moves.points, BREAKING, strict=False)]
    return [whole, swap, said, replace(moves, points=tuple(points))]


def one(result: Any) -> PagePart:
    (part,) = parts_of([result])
    return part


def drawn(result: Any) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(one(result))}


def data(figure: Figure | None, layer: int = 0) -> list[dict[str, Any]]:
    assert figure
    part = figure.slice(layer)
    assert part
    return rows(part.columns)


class Parsed(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, its text, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def having(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


# Reading


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_result_is_read_as_kind_of_file(kind: str, tmp_path: Path) -> None:
    result = MAKERS[kind]()
    result.to_json(tmp_path / "x.json")
    assert type(read_saved(tmp_path / "x.json")) is type(result)
    assert read_saved(tmp_path / "x.json") == result


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MAKERS["layers"]().to_json(), "normscope.layers/1"),
        ("[]", "'list'"),
        ('{"schema": ["\\u001b"]}', "schema is"),
        ('{"schema": "normscope.why/1"}', "has no member"),
        ("{", "as a report"),
    ],
)
def test_what_is_no_result_is_refused_in_a_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ReportError) as caught:
        read_saved(tmp_path / "x.json")
    assert said in str(caught.value)
    assert "x.json" in str(caught.value)
    assert str(caught.value).isprintable()


# Parts


def test_results_of_one_model_share_a_part_and_comparisons_come_last() -> None:
    inspect, batches, about, swap, compared = of_one_model()
    first, second = parts_of([compared, batches, inspect, swap, about])
    assert (first.inspect, first.batches, first.why, first.swap) == (inspect, batches, about, swap)
    assert first.compare is None
    assert second.compare is compared
    assert first.layers == MINILM
    assert len(set(first.labels)) == len(MINILM)
    assert first.labels[:3] == ["embeddings", "0.attention.output", "0.output"]


@pytest.mark.parametrize("field", ["id", "revision", "commit", "architecture", "dtype", "parameters"])
def test_another_model_is_another_part(field: str) -> None:
    inspect, batches = of_one_model()[:2]
    other = replace(batches, model=replace(batches.model, **{field: 7 if field == "parameters" else "x"}))
    assert len(parts_of([inspect, other])) == 2
    moved = replace(batches, model=replace(batches.model, device="cuda"))
    assert len(parts_of([inspect, moved])) == 1


def test_a_second_result_of_a_command_is_told_apart_by_its_file(tmp_path: Path) -> None:
    for name in ("news.json", "code.json"):
        reports.minilm().to_json(tmp_path / name)
    parts = parts_of([tmp_path / "news.json", tmp_path / "code.json", reports.llama()])
    assert headings(parts) == [f"{MODEL} (news.json)", f"{MODEL} (code.json)", "meta-llama/Llama-3.2-1B"]
    with pytest.raises(UsageError, match="nothing to show"):
        parts_of([])


# Charts


def test_every_chart_is_drawn_from_its_result_and_knows_its_words() -> None:
    found = every_figure()
    assert [figure.name for figure in found] == [name for name, _, _ in CHARTS]
    for figure in found:
        assert set(figure.metrics) <= set(ENTRIES), figure.name
        part = figure.slice(3)
        assert part
        assert re.search(r"\d", part.says), figure.name
        heads, body = table(figure, part)
        assert body
        assert {len(row) for row in body} == {len(heads)}
        assert set(figure.heads) <= set(part.columns)


def test_names_are_data_and_never_part_of_a_specification() -> None:
    for result in breaking()[:2]:
        for figure in figures(one(result)):
            spec = json.dumps(figure.spec, ensure_ascii=False)
            assert not [name for name in BREAKING if name in spec or printable(name) in spec]
    assert [f.spec for f in figures(one(reports.minilm()))] == [
        f.spec for f in figures(one(replace(reports.minilm(), model=replace(reports.minilm().model, id="x"))))
    ]


def test_agreement_and_what_explains_are_the_reports() -> None:
    report = reports.worded()
    figures_by_name = drawn(report)
    for row in data(figures_by_name["agreement"]):
        layer = report.layers[row["name"]]
        assert layer.agreement
        assert layer.affine_fit
        assert row["agreement"] == pytest.approx(layer.agreement["feature"], rel=1e-3)
        assert row["fit"] == pytest.approx(layer.affine_fit.r2, rel=1e-3)
    for row in data(figures_by_name["explained"]):
        explained = report.layers[row["name"]].explained
        assert explained
        assert explained.token
        of = {
            "position": explained.position.epsilon2,
            "text": explained.sequence.epsilon2,
            "word": explained.token.epsilon2,
        }
        assert row["share"] == pytest.approx(of[row["by"]], rel=1e-3)
    says = figures_by_name["agreement"].slices[0]
    lowest = min(report.layers.values(), key=lambda layer: (layer.agreement or {})["feature"])
    assert says
    assert f"worst at {lowest.name} ({short((lowest.agreement or {})['feature'], 2)})" in says.says


def test_noise_is_that_of_the_size_nearest_to_eight() -> None:
    report = reports.batch_report()
    figure = overview.noise(one(report), report)
    seen = data(figure)
    assert figure
    assert "8 texts" in figure.title
    (caption,) = [one_slice.says for one_slice in figure.slices if one_slice]
    assert caption.endswith(
        " In multiples of what independent tokens would give: random 1.75, by length 2.39, as given 1.95."
    )
    orders = {"random": "random", "length": "by length", "given": "as given"}
    for row in seen:
        sizes = report.layers[row["name"]].sizes or ()
        want = [s.tid.mean.mean for s in sizes if s.batch_size == 8 and orders[s.order] == row["order"]]
        assert [row["noise"]] == (pytest.approx(want, rel=1e-3) if want else [None])
    small = {
        name: replace(layer, sizes=tuple(size for size in layer.sizes or () if size.batch_size < 5))
        for name, layer in report.layers.items()
    }
    few = overview.noise(one(report), replace(report, layers=small))
    assert few
    assert "4 texts" in few.title
    assert overview.noise(one(report), replace(report, layers={})) is None


@pytest.mark.parametrize("head", [None, "causal"])
def test_damage_has_its_interval(head: str | None) -> None:
    report = reports.swap_report(head=head, broken=True)
    seen = data(overview.damage(one(report), report))
    for row in seen:
        effect = report.layers[row["name"]].effect
        shown, low, high = (
            (effect.kl.mean, effect.kl.low, effect.kl.high)
            if effect.kl
            else (1 - effect.hidden_cosine.mean, 1 - effect.hidden_cosine.high, 1 - effect.hidden_cosine.low)
        )
        for key, value in zip(("damage", "low", "high"), (shown, low, high), strict=True):
            assert row[key] == (pytest.approx(value, rel=1e-3) if math.isfinite(value) else None)
    assert seen[0]["damage"] is None


def test_positions_are_relative_to_the_layers_average_and_share_columns_when_there_are_many() -> None:
    report = reports.report([reports.layer("a", positions=300), reports.layer("b", positions=5)])
    figure = maps.positions(one(report), report)
    seen = data(figure)
    assert figure
    assert "average of 3 positions" in figure.notes[1]
    for row in seen:
        stats = report.layers[row["name"]].position
        assert stats
        total = sum(n * v for n, v in zip(stats.count, stats.token_variance, strict=True))
        average = total / sum(stats.count)
        within = range(row["low"], min(row["high"], len(stats.count)))
        mine = sum(stats.count[t] * stats.token_variance[t] for t in within) / sum(
            stats.count[t] for t in within
        )
        assert row["value"] == pytest.approx(mine / average, rel=1e-3)
    of_a = [row for row in seen if row["name"] == "a"]
    assert (of_a[0]["low"], of_a[0]["high"], of_a[1]["high"]) == (0, 1, 4)
    assert [row["low"] for row in of_a[1:]] == [row["high"] for row in of_a[:-1]]
    assert of_a[-1]["high"] == 300
    assert len(of_a) <= maps.MAX_CELLS


def test_a_column_of_features_shows_the_one_furthest_from_bn() -> None:
    report = reports.report([reports.layer("a", features=300), reports.layer("b", 1, features=300)])
    figure = maps.features(one(report), report)
    seen = data(figure)
    assert figure
    assert "3 features share a column" in figure.notes[0]
    assert len(seen) == 200
    for row in seen:
        output = report.layers[row["name"]].own_output
        assert output
        far = {
            d: output.mean[d] ** 2 + (output.variance[d] ** 0.5 - 1) ** 2
            for d in range(row["low"], row["high"])
        }
        assert row["value"] == pytest.approx(max(far.values()), rel=1e-3)
        assert row["feature"] == max(far, key=lambda d: far[d])
    small = maps.features(one(reports.minilm()), reports.minilm())
    assert small
    assert len(small.notes) == 1
    assert len(data(small)) == 13 * 48


def test_a_curves_cells_are_its_bins() -> None:
    report = reports.curved(reports.minilm())
    figure = drawn(report)["curve"]
    for number, layer in enumerate(report.layers.values()):
        curve = layer.curve
        assert curve
        counts = curve.histogram()
        widths = curve.input_limit / 32, curve.output_limit / 32
        cells = data(figure, number)
        assert sum(row["count"] for row in cells) == counts.sum()
        for row in cells:
            x, y = (round(row[axis] / width) + 32 for axis, width in zip("xy", widths, strict=True))
            assert counts[x, y] == row["count"] > 0
            ends = row["x"] + widths[0], row["y"] + widths[1]
            assert [row["x2"], row["y2"]] == pytest.approx(ends, abs=1e-4 * curve.input_limit)
    part = figure.slice(2)
    assert part
    assert "within ±8 and an output within ±8 are drawn, 1,236 are beyond." in part.says
    one = replace(report, layers={**report.layers, MINILM[0]: reports.minilm().layers[MINILM[0]]})
    assert [bool(each) for each in drawn(one)["curve"].slices] == [False] + [True] * 12
    assert "curve" not in drawn(reports.minilm())


def test_one_layers_charts_are_of_that_layer() -> None:
    report, batches = reports.minilm(), reports.batch_report()
    by_name = {**drawn(report), **drawn(batches)}
    for number, name in enumerate(MINILM):
        layer = report.layers[name]
        features = data(by_name["scatter"], number)
        assert layer.feature
        assert layer.own_output
        assert [row["before"] for row in features] == pytest.approx(layer.feature.variance**0.5, rel=1e-3)
        assert [row["after"] for row in features] == pytest.approx(layer.own_output.variance**0.5, rel=1e-3)
        large = layer.outliers.llm_int8 if layer.outliers else None
        assert large
        assert [row["feature"] for row in features if row["outlier"]] == large.features.tolist()
        named = {row["feature"]: row for row in features if row["named"]}
        large_sd = {d for d, variance in enumerate(layer.own_output.variance) if variance >= 4}
        assert set(named) <= large_sd
        assert bool(named) == bool(large_sd)
        positions = data(by_name["profile"], number)
        assert layer.position
        assert [row["LN"] for row in positions] == pytest.approx(layer.position.token_variance, rel=1e-3)
        assert [row["BN per position"] for row in positions] == pytest.approx(
            layer.position.variance, rel=1e-3
        )
        assert {row["BN per feature"] for row in positions} == {float(f"{layer.feature.variance.mean():.4g}")}
        if batches.layers[name].sizes:
            noise = data(by_name["sizes"], number)
            want = [size.tid.mean.mean for size in batches.layers[name].sizes or ()]
            assert [row["noise"] for row in noise] == pytest.approx(want, rel=1e-3)
    assert by_name["sizes"].slice(len(MINILM) - 1) is None


def test_outliers_and_movers_are_the_reports() -> None:
    report = reports.minilm()
    seen = {(row["feature"], row["name"]) for row in data(drawn(report)["outliers"])}
    assert seen == {(str(each.feature), name) for each in report.outlier_features for name in each.layers}
    assert "outliers" not in drawn(reports.report([reports.layer("a")]))
    compared = reports.comparison()
    moved = data(overview.movers(one(compared), compared))
    assert [row["name"] for row in moved[: len(compared.layers)]] == list(compared.layers)
    for row in moved:
        drift = compared.layers[row["name"]].bn_drift
        want = drift.mean if row["what"] == "mean" else drift.variance
        assert row["moved"] == (None if math.isnan(want) else pytest.approx(want, rel=1e-3))


def test_numbers_are_rounded_and_what_is_unknown_is_null() -> None:
    assert rounded([1.23456789, -9876543.0, 0.0, NAN, math.inf]) == [1.235, -9877000.0, 0.0, None, None]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "make",
    [
        reports.llama,
        reports.mixed,
        reports.hostile,
        lambda: reports.report([]),
        lambda: reports.report([reports.uncalled("a"), reports.uncalled("b", 1)]),
        lambda: reports.report([reports.layer("x", features=1, positions=1)]),
        lambda: reports.report([flat()]),
        lambda: reports.batch_report(["a"]),
    ],
)  # fmt: skip
def test_reports_with_parts_missing_make_a_page(make: Any) -> None:
    parsed = Parsed(page([make()]))
    assert [name for name, _ in parsed.elements].count("h2") == 1
    assert "NaN" not in parsed.scripts[0]
    assert len(json.loads(parsed.scripts[0])["parts"]) == 1


def flat() -> Any:
    """A layer whose numbers are all 0 or unknown."""
    layer = reports.layer("flat")
    assert layer.feature
    assert layer.own_output
    assert layer.position
    zeros = np.zeros_like
    return replace(
        layer,
        feature=replace(layer.feature, variance=zeros(layer.feature.variance)),
        own_output=replace(layer.own_output, variance=layer.own_output.variance * NAN),
        position=replace(
            layer.position,
            variance=zeros(layer.position.variance),
            token_variance=zeros(layer.position.variance),
        ),
    )


# The page


def test_markup_is_only_what_tag_returns() -> None:
    assert tag("br") == "<br>", "an end tag would be a second line break"
    assert tag("p", "<b>", tag("i", "&"), None, class_='"x"', hidden=True, id=None, data_x="'") == (
        "<p class=\"&quot;x&quot;\" hidden data-x=\"&#x27;\">&lt;b&gt;<i>&amp;</i></p>"
    )  # fmt: skip
    assert join("\x1b\u202e", Markup("<br>")) == "\\x1b\\u202e<br>"
    hostile = {"a": BREAKING, "</script>": 1}
    text = embedded(hostile)
    assert json.loads(text) == hostile
    assert text.isascii()
    assert not set(text) & set("<>&")


def test_hostile_strings_stay_text() -> None:
    text = page(breaking())
    parsed = Parsed(text)
    assert len(parsed.scripts) == 3
    assert not [name for name, _ in parsed.elements if name in ("img", "b", "iframe", "object")]
    assert not [key for _, attrs in parsed.elements for key in attrs if key.startswith("on")]
    shown = "".join(parsed.texts)
    for name in BREAKING:
        assert printable(name) in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    kept = json.loads(parsed.scripts[0])
    assert kept["parts"][0]["names"] == [printable(name) for name in BREAKING]


def test_a_page_loads_nothing_and_runs_only_its_own_scripts() -> None:
    parsed = Parsed(whole_page())
    (policy,) = (
        attrs["content"] or ""
        for name, attrs in parsed.elements
        if attrs.get("http-equiv") and name == "meta"
    )
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in parsed.scripts[1:]
    ]
    assert "default-src 'none'" in policy
    assert f"script-src {' '.join(hashes)}" in policy
    assert "unsafe-eval" not in policy
    assert not parsed.having("src")
    hrefs = [href for href in parsed.having("href") if not href.startswith(("#part-", "#findings"))]
    assert hrefs == ["data:,"]


def test_every_chart_is_in_words_and_in_a_table_and_has_its_name() -> None:
    parsed = Parsed(whole_page())
    labels = [attrs["aria-label"] or "" for _, attrs in parsed.elements if attrs.get("role") == "img"]
    names = [name for name, _ in parsed.elements]
    charts = [name for name, command, _ in CHARTS if command != "trajectory"]
    assert len(labels) == len(charts) == names.count("figure")
    assert names.count("table") == len(charts) + 1  # one of the tokens
    assert all(re.search(r"\d", label) for label in labels)
    ids = parsed.having("id")
    assert len(ids) == len(set(ids))
    for attribute in ("aria-labelledby", "for"):
        assert set(parsed.having(attribute)) <= set(ids)
    assert {href[1:] for href in parsed.having("href") if href[0] == "#"} <= set(ids)
    assert dict(parsed.elements[0][1])["lang"] == "en"
    assert {"header", "nav", "main", "footer", "h1", "h2", "h3", "h4"} <= set(names)


def test_claims_are_in_words_with_their_verdicts() -> None:
    parsed = Parsed(page([reports.minilm(), replace(why(), model=reports.minilm().model)]))
    text = "".join(parsed.texts)
    assert "Of the 2 claims: 1 holds, 1 not testable here." in text
    assert "holds1a claim1.00 [0.500, 1.50]" in text
    assert "1.00 [0.500, 1.50]: a" in text
    assert text.index("1a claim") < text.index("Layer by layer")
    assert "Rule: rule." in text
    assert "a warning" in text


def test_a_page_of_bert_base_is_under_three_megabytes() -> None:
    dice = np.random.default_rng(0)
    layers = []
    for i in range(25):
        layer = reports.layer(f"encoder.layer.{i}.output.LayerNorm", i % 9, features=768, positions=512)
        assert layer.feature
        assert layer.own_output
        assert layer.position
        features: Any = {name: dice.gamma(1, size=768) for name in ("mean", "variance")}
        positions: Any = {name: dice.gamma(1, size=512) for name in ("variance", "token_variance")}
        layers.append(
            replace(
                layer,
                feature=replace(layer.feature, **features),
                own_output=replace(layer.own_output, **features),
                position=replace(layer.position, **positions),
            )
        )
    assert len(page([reports.report(layers)]).encode()) < 3_000_000


# Pictures


@pytest.mark.parametrize("name", [name for name, _, _ in CHARTS])
def test_a_chart_is_a_picture_too(name: str) -> None:
    (figure,) = (figure for figure in every_figure() if figure.name == name)
    text = svg(figure, 2, "<about>")
    root = ElementTree.fromstring(text)
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert figure.title in texts
    assert "<about>" in texts
    assert 'href="http' not in text


def test_names_in_a_picture_are_text() -> None:
    part = parts_of(breaking())[0]
    for figure in figures(part):
        if figure.name in ("agreement", "features", "outliers"):
            texts = "".join(ElementTree.fromstring(svg(figure, 4, part.title)).itertext())
            assert figure.title in texts
            assert "</script><b>&|`" in texts


# The command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("saved")
    paths = [folder / f"{kind}.json" for kind in ("inspect", "batches", "why", "swap", "compare")]
    for path, result in zip(paths, of_one_model(), strict=True):
        result.to_json(path)
    return paths


def test_the_command_writes_the_page_and_pictures(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    whole = page(files)
    result = run(*files, "-o", out / "page.HTM")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (out / "page.HTM").read_text(encoding="utf-8") == whole
    normscope.write_page(of_one_model(), out / "results.html", layer="embeddings.*")
    written = (out / "results.html").read_text(encoding="utf-8")
    assert f"Shown: {MINILM[0]}" in written
    assert "(inspect.json)" in whole
    assert "(inspect.json)" not in written
    for name in ("x.svg", "x.png"):
        result = run(files[0], "--chart", "scatter", "--layer", "*.3.output.*", "-o", out / name)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert "encoder.layer.3.output.LayerNorm" in (out / "x.svg").read_text(encoding="utf-8")
    assert (out / "x.png").read_bytes().startswith(b"\x89PNG")
    assert run(files[0], "--chart", "agreement").stdout.startswith("<svg")
    assert run(files[2]).stdout == page([files[2]])
    assert len(list(out.iterdir())) == 4


def test_the_layer_that_is_chosen_is_shown_first(files: list[Path]) -> None:
    def selected(text: str) -> list[str | None]:
        return [
            attrs["value"]
            for name, attrs in Parsed(text).elements
            if name == "option" and "selected" in attrs
        ]

    report = reports.minilm()
    least = min(MINILM, key=lambda name: (report.layers[name].agreement or {})["feature"])
    assert selected(page(files)) == [str(MINILM.index(least))]
    assert selected(page(files, "*.3.output.*")) == [str(MINILM.index("encoder.layer.3.output.LayerNorm"))]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-o", "x.pdf"], 2, "expected .html or .htm for a page"),
        (["-o", "x.svg"], 2, "add --chart NAME"),
        (["--chart", "agreement", "-o", "x.html"], 2, "expected .svg or .png for a chart"),
        (["--chart", "agrement"], 2, "agreement, explained, depth, noise, damage, positions"),
        (["--chart", "\x1b"], 2, "there is no chart"),
        (["--chart", "movers"], 2, "a result of normscope compare"),
        (["--layer", "nothing*"], 2, "no layer matches"),
        (["--layer", "encoder*"], 2, "12 layers"),
        (["-o", "no/page.html"], 1, "no folder"),
        (["-o", "."], 1, "it is a folder"),
    ],
)
def test_the_command_refuses_in_a_line(
    options: list[str],
    code: int,
    said: str,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(files[0], *options)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (code, "", 1)
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_refused(files: list[Path], tmp_path: Path) -> None:
    reports.llama().to_json(tmp_path / "llama.json")
    both = run(files[0], tmp_path / "llama.json", "--chart", "agreement")
    assert "2 charts agreement can be drawn" in both.stderr
    uncalled = run(tmp_path / "llama.json", "--chart", "scatter", "--layer", "*.15.post_attention_layernorm")
    assert "the layer has no numbers for the chart scatter" in uncalled.stderr
    missing = run(tmp_path / "none.json")
    assert [each.exit_code for each in (both, uncalled, missing)] == [2, 2, 1]
    assert not both.stdout + uncalled.stdout + missing.stdout


def test_a_terminal_is_not_filled(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.cli.output.Output.is_terminal", True)
    result = run(files[0])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name one with -o page.html" in result.stderr


@pytest.mark.parametrize("library", ["altair", "vl_convert"])
def test_without_the_extra_a_line_says_what_to_install(
    library: str, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = run(files[0])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "run pip install '.[report]'" in result.stderr


def test_it_loads_no_torch(files: list[Path], tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "from normscope.cli.start import main\n"
        f"sys.argv = ['normscope', 'report', {str(files[0])!r}, '-o', {str(tmp_path / 'x.html')!r}]\n"
        "atexit.register(lambda: print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr))\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_help_all_names_every_chart() -> None:
    text = run("--help-all").stdout
    for name, command, _ in CHARTS:
        assert re.search(rf"\b{name}\b", text.split("The charts")[1])
        assert command in text


def test_the_guides_commands_run(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "examples" / "guides" / "page.md").read_text(encoding="utf-8")
    commands = re.findall(r"^normscope report (.+)$", guide, re.MULTILINE)
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    for command in commands:
        result = run(*shlex.split(command))
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    made = {path.name for path in tmp_path.iterdir() if path.suffix != ".json"}
    assert made == {"page.html", "features.svg", "scatter.png"}


def test_of_very_many_layers_some_are_drawn_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.render.page.parts.MAX_LAYERS", 5)
    report = reports.minilm()
    (part,) = parts_of([report])
    agreements = {name: (layer.agreement or {})["feature"] for name, layer in report.layers.items()}
    assert len(part.layers) <= 7
    assert {MINILM[0], MINILM[-1], min(agreements, key=agreements.__getitem__)} <= set(part.layers)
    assert part.left_out == f"{len(part.layers)} of 13 layers are shown, evenly spaced"
    assert part.left_out in page([report])
    for name in MINILM:
        assert f"Shown: {name}" in page([report], name)
    with pytest.raises(UsageError, match="is 13 layers"):
        page([report], "*")


def test_of_very_many_features_the_furthest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.render.page.charts_one_layer.MAX_POINTS", 1)
    monkeypatch.setattr("normscope.render.page.charts_one_layer.MIN_LAYER_POINTS", 10)
    figure = drawn(reports.minilm())["scatter"]
    shown = data(figure)
    layer = next(iter(reports.minilm().layers.values()))
    assert layer.own_output is not None
    distance = (layer.own_output.mean**2) + (np.sqrt(layer.own_output.variance) - 1) ** 2
    assert 5 <= len(shown) <= 10 + 6
    assert int(np.argmax(distance)) in [row["feature"] for row in shown]
    assert "Of more features only 10 are drawn" in figure.notes[0]


@pytest.mark.parametrize("code", ["import os; os.abort()", "raise ValueError('out of memory')"])
def test_a_renderer_that_fails_is_one_line(
    code: str, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "renderer.py").write_text(code)
    monkeypatch.setattr("normscope.render.page.renderer.__file__", str(tmp_path / "renderer.py"))
    result = run(files[0], "--chart", "agreement", "-o", tmp_path / "a.svg")
    assert result.exit_code == 1
    assert re.fullmatch(r"error: the renderer failed \((signal 6|.*out of memory)\); .*\n", result.stderr)
    assert not (tmp_path / "a.svg").exists()
