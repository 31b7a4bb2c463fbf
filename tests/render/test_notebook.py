"""Results in a notebook: their HTML has every layer and number as text, and nothing of theirs as markup."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from normscope.escaping import printable
from normscope.render import notebook
from normscope.render.batches import render_batches
from normscope.render.compare import render_comparison
from normscope.render.inspect import render_report
from normscope.render.layer import least_agreeing
from normscope.render.layers import render_outline
from normscope.render.notebook import render_html
from normscope.render.numbers import short
from normscope.render.swap import render_swap
from normscope.render.terminal import Screen
from normscope.render.why import render_why
from normscope.results.base import Shown
from normscope.results.common import Pooled
from normscope.results.layers import Outline, OutlinedLayer, OutlinedModel
from normscope.results.why import Evidence, Finding, Interval, WhyReport
from tests.support import reports
from tests.support.reports import HOSTILE

TAGS = {"div", "style", "p", "table", "caption", "thead", "tbody", "tr", "th", "td"}


class Reader(HTMLParser):
    """What a browser would see: elements, the text of cells row by row, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self.open else data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def why_report() -> WhyReport:
    base = reports.minilm()
    found = Evidence("a share", "late_reach", Interval(0.25, 0.125, 0.5))
    claims = (
        Finding("1a", "Texts differ.", (found,), "a share", 0.5, "a rule", "holds", "normscope why"),
        Finding("5", "CNNs.", (), None, float("nan"), "a rule", "not testable here", "normscope why"),
    )
    pooled = Pooled((("[CLS]", "<b>", "中国"), ("[CLS]",)))
    return WhyReport("0.1.0", base.model, base.run, 64, 0, claims, pooled, ("a note",))


def outline() -> Outline:
    model = OutlinedModel("nreimers/MiniLM", None, None, "BertModel", 22_713_216)
    named = enumerate(reports.MINILM)
    layers = tuple(
        OutlinedLayer(n, i, "LayerNorm", "layernorm", 384, 1e-12, "weight", 384, "post-norm")
        for i, n in named
    )
    return Outline("0.1.0", model, layers)


RESULTS: list[Callable[[], Any]] = [
    reports.minilm, reports.mixed, reports.llama, reports.batch_report, reports.swap_report,
    reports.comparison, outline,
]  # fmt: skip


@pytest.mark.parametrize("make", RESULTS, ids=lambda make: make.__name__)
def test_a_result_shows_all_of_its_layers(make: Callable[[], Any]) -> None:
    result = make()
    reader = Reader(result._repr_html_())
    layers = result.layers.values() if hasattr(result.layers, "values") else result.layers
    cells = {cell for row in reader.rows for cell in row}
    for layer in layers:
        assert layer.name in cells
    assert len(layers) > 3
    for model in [side.model for side in getattr(result, "reports", ())] or [result.model]:
        assert model.id in reader.text


def test_a_report_shows_its_numbers() -> None:
    report = reports.minilm()
    reader = Reader(render_html(report))
    head, *rows = reader.rows[: 1 + len(report.layers)]
    (column,) = [i for i, title in enumerate(head) if title == "agreement with BN"]
    for row, layer in zip(rows, report.layers.values(), strict=True):
        assert layer.agreement is not None
        assert row[column].split()[0] == short(layer.agreement["feature"])
    assert "64 texts" in reader.text
    assert f'<tr class="strong"><td>{least_agreeing(report)[0]}</td>' in render_html(report)


def test_claims_show_their_verdicts() -> None:
    rows = Reader(why_report()._repr_html_()).rows
    assert rows[1] == ["1a Texts differ.", "holds", "a share", "0.250 [0.125, 0.500]"]
    assert [cell.strip() for cell in rows[2]] == ["5 CNNs.", "not testable here", "", "-"]
    assert rows[4] == ["1", "[CLS]", "<b>", "中国"]


def test_a_warning_is_shown() -> None:
    assert "mind <this>" in Reader(render_html(replace(reports.minilm(), warnings=("mind <this>",)))).text


@pytest.mark.parametrize("make", [reports.hostile, lambda: reports.swap_report(HOSTILE, id=HOSTILE[4]),
                                  lambda: reports.batch_report(HOSTILE, id=HOSTILE[4])])  # fmt: skip
def test_hostile_names_stay_text(make: Callable[[], Any]) -> None:
    html = make()._repr_html_()
    reader = Reader(html)
    assert reader.attributes <= {"class", "scope"}
    assert reader.open == []
    assert html.count("<style>") == html.count("</style>") == 1
    assert not {c for c in html.replace("\n", "") if not c.isprintable()}
    for name in HOSTILE:
        assert printable(name) in reader.text


def test_it_has_no_colours_that_a_theme_could_hide() -> None:
    style = render_html(reports.minilm()).split("<style>")[1].split("</style>")[0]
    assert "#" not in style
    assert {part.split(";")[0].strip() for part in style.split("color:")[1:]} == {"inherit"}


@pytest.mark.parametrize("kind", Shown.__subclasses__())
def test_every_result_that_is_shown_has_html_and_text(kind: type) -> None:
    assert kind in notebook._SECTIONS
    assert kind in notebook._TEXTS


# Text


def printed(result: Any, monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    return str(result)


@pytest.mark.parametrize("columns", [80, 120])
def test_print_shows_what_the_terminal_shows(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    screen = Screen(columns)
    shown: list[tuple[Any, str]] = [
        (reports.batch_report(), render_batches(reports.batch_report(), screen=screen)),
        (reports.swap_report(), render_swap(reports.swap_report(), screen=screen)),
        (why_report(), render_why(why_report(), screen=screen)),
        (reports.comparison(), render_comparison(reports.comparison(), screen=screen)),
        (outline(), render_outline(outline(), screen=screen)),
    ]
    for result, want in shown:
        assert printed(result, monkeypatch, columns) + "\n" == want
    text, whole = (
        printed(reports.minilm(), monkeypatch, columns),
        render_report(reports.minilm(), screen=screen),
    )
    assert whole.startswith(text)
    assert whole.removeprefix(text).strip().startswith("more: ")


def test_a_layer_shows_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = reports.minilm().layers[reports.MINILM[2]]
    text, reader = printed(layer, monkeypatch), Reader(layer._repr_html_())
    assert text.startswith(layer.name)
    for by in ("by position", "by feature"):
        assert by in text.lower()
        assert by in reader.text.lower()
    assert reader.open == []
    assert "never called" in printed(reports.layer("n", calls=0), monkeypatch)


@pytest.mark.parametrize("make", [reports.hostile, lambda: reports.hostile().layers[HOSTILE[2]]])
def test_hostile_names_print_no_codes(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(make(), monkeypatch)
    assert not {c for c in text.replace("\n", "") if not c.isprintable()}


def test_reprs_are_one_line_without_tables() -> None:
    layers = [*reports.minilm().layers.values(), *reports.swap_report().layers.values()]
    layers += reports.batch_report().layers.values()
    lines = [repr(layer) for layer in layers]
    assert all(len(line) < 120 and "\n" not in line and "array" not in line for line in lines)
    assert repr(reports.layer("n")) == "<LayerReport of n: layernorm, 48 features, 1,824 tokens>"


def test_it_needs_no_torch(tmp_path: Path) -> None:
    reports.minilm().to_json(tmp_path / "report.json")
    code = (
        "import sys, normscope\n"
        f"html = normscope.read_report({str(tmp_path / 'report.json')!r})._repr_html_()\n"
        "assert '<table>' in html and not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
