"""The page in a browser: every chart drawn, no request, a layer chosen by mouse and by keyboard."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normscope.escaping import printable
from normscope.render.page.write import page
from tests.render.test_page import BREAKING, breaking, whole_page
from tests.support import reports
from tests.support.reports import MINILM

api = pytest.importorskip("playwright.sync_api", reason="the extra `test` installs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Pairs of texts in one chart that cover each other by more than a pixel; Vega hides texts by their opacity.
COLLISIONS = """() => [...document.querySelectorAll(".chart svg")].flatMap((svg) => {
  const shown = (e) => e.textContent.trim() && getComputedStyle(e).opacity > 0;
  const texts = [...svg.querySelectorAll("text")].filter(shown);
  const boxes = texts.map((e) => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).flatMap(([b, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
    && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 4 ? [[a, b]] : []));
})"""
WIDTHS = {"phone": {"width": 360, "height": 740}, "desktop": {"width": 1280, "height": 900}}
PART = "#part-1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[str]]]:
    """A tab with the page of all results, and what went wrong or was asked for in it."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(whole_page(), encoding="utf-8")
    yield from shown(browser, path)


def shown(browser: Any, path: Path) -> Iterator[tuple[Any, list[str]]]:
    tab, noise = browser.new_page(viewport=WIDTHS["desktop"]), list[str]()
    tab.on("console", lambda message: noise.append(message.text))
    tab.on("pageerror", lambda error: noise.append(str(error)))
    tab.on("request", lambda request: noise.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-drawn]", state="attached")
    noise[:] = [line for line in noise if line not in (path.as_uri(), "data:,")]
    yield tab, noise
    assert noise == []
    tab.close()


@pytest.fixture
def tab(opened: tuple[Any, list[str]]) -> Any:
    return opened[0]


def marks(tab: Any, chart: str) -> list[str]:
    """Where a chart's marks are drawn."""
    found: list[str] = tab.eval_on_selector_all(
        f"{PART}-{chart} svg [class*=role-mark] > *",
        "found => found.map(mark => (mark.getAttribute('d') ?? '') + mark.getAttribute('transform'))",
    )
    return found


def settled(tab: Any) -> None:
    """Wait until the charts are drawn: they are drawn in the frame after they are changed."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")


def test_every_chart_has_marks_and_nothing_is_loaded(opened: tuple[Any, list[str]]) -> None:
    tab, noise = opened
    figures = tab.locator("figure")
    assert figures.count() == 13
    for number in range(figures.count()):
        drawn = figures.nth(number).locator("svg [class*=role-mark] > *")
        assert drawn.count() > 3, figures.nth(number).get_attribute("id")
    assert len(marks(tab, "features")) == 13 * 48
    assert noise == []


def test_the_keyboard_is_enough(tab: Any) -> None:
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.locator(".skip").bounding_box()["x"] >= 0
    for _ in range(80):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.tagName") == "SELECT":
            break
    before = int(tab.locator("select").input_value())
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("ArrowUp" if before else "ArrowDown")
    settled(tab)
    after = int(tab.locator("select").input_value())
    assert abs(after - before) == 1
    assert tab.inner_text(f"{PART}-status") == f"Shown: {MINILM[after]}"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.parentElement.open") is True


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(width: str, scheme: str, tab: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size(WIDTHS[width])
    settled(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]["width"]
    wide = "found => found.filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert tab.eval_on_selector_all(".chart", wide) == 0
    paper = luminance(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for selector, least in (("p", 4.5), ("p.about", 4.5), ("a", 4.5), ("summary", 4.5), ("svg text", 4.5)):
        inks = tab.eval_on_selector_all(
            selector, "found => found.map(e => getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color'])"
        )
        card = luminance(tab.evaluate("getComputedStyle(document.querySelector('figure')).backgroundColor"))
        # BN's own colour names its rule beside it in the chart: a mark, for which 3 is enough.
        inks = {ink for ink in inks if ink != "rgb(213, 94, 0)"}
        assert min(contrast(luminance(ink), ground) for ink in inks for ground in (paper, card)) >= least


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


@pytest.mark.parametrize("blocks", [1, 80])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_a_chart_covers_another(blocks: int, width: str, browser: Any, tmp_path: Path) -> None:
    places = ("input_layernorm", "post_attention_layernorm")
    names = [f"model.layers.{block}.{place}" for block in range(blocks) for place in places]
    layers = [reports.layer(name, i, outliers=reports.standing_out(i)) for i, name in enumerate(names)]
    (tmp_path / "x.html").write_text(page([reports.report(layers)]), encoding="utf-8")
    tab = browser.new_page(viewport=WIDTHS[width])
    tab.goto((tmp_path / "x.html").as_uri())
    tab.wait_for_selector("html[data-drawn]", state="attached")
    settled(tab)
    assert tab.evaluate(COLLISIONS) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]["width"]
    assert tab.locator("figure").evaluate_all("all => Math.max(...all.map(e => e.offsetHeight))") < 1300
    tab.close()


def test_on_a_phone_names_are_whole_and_a_legend_names_what_there_is(browser: Any, tmp_path: Path) -> None:
    places = ("ln", "post_attention_layernorm")
    names = [f"model.layers.{block}.{place}" for block in range(3) for place in places]
    layers = [reports.layer(name, i, outliers=reports.standing_out(i + 2)) for i, name in enumerate(names)]
    (tmp_path / "x.html").write_text(page([reports.report(layers)]), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto((tmp_path / "x.html").as_uri())
    tab.wait_for_selector("html[data-drawn]", state="attached")
    labels = tab.locator(f"{PART}-agreement svg .role-axis-label text").all_text_contents()
    assert {f"{block}.post_attention_layernorm" for block in range(3)} <= set(labels)
    for number, groups in (("0", ["other features", "outliers"]), ("1", ["other features"])):
        tab.locator("select").select_option(number)
        settled(tab)
        assert tab.locator(f"{PART}-scatter .role-legend-label text").all_text_contents() == groups
    tab.close()


def test_choosing_a_layer_changes_its_charts_words_and_tables(tab: Any) -> None:
    tab.set_viewport_size(WIDTHS["desktop"])
    select, before = tab.locator("select"), {}
    select.select_option("2")
    settled(tab)
    for chart in ("scatter", "profile", "sizes"):
        before[chart] = (marks(tab, chart), tab.inner_text(f"{PART}-{chart} .says"))
    select.select_option("7")
    settled(tab)
    assert tab.inner_text(f"{PART}-status") == f"Shown: {MINILM[7]}"
    report = reports.minilm()
    for chart, (drawn, says) in before.items():
        assert marks(tab, chart) != drawn
        now = tab.inner_text(f"{PART}-{chart} .says")
        assert now != says
        assert now in tab.get_attribute(f"{PART}-{chart} .chart", "aria-label")
    cells = tab.eval_on_selector_all(
        f"{PART}-scatter tbody tr:nth-child(4) > *", "f => f.map(e => e.textContent)"
    )
    layer = report.layers[MINILM[7]]
    assert layer.feature
    assert layer.own_output
    assert float(cells[1]) == pytest.approx(layer.feature.variance[3] ** 0.5, rel=1e-3)
    assert float(cells[2]) == pytest.approx(layer.own_output.variance[3] ** 0.5, rel=1e-3)
    select.select_option("12")
    assert "no such numbers" in tab.inner_text(f"{PART}-sizes .says")
    assert tab.locator(f"{PART}-sizes .chart").is_hidden()


def test_a_click_on_a_layer_chooses_it(tab: Any) -> None:
    def chosen() -> str:
        return str(tab.locator("select").input_value())

    tab.locator(f"{PART}-agreement svg .mark-rect path").nth(4).click()
    assert chosen() == "4"
    tab.locator(f"{PART}-explained svg .mark-symbol path").nth(9).click()
    assert chosen() == "9"
    label = tab.locator(f"{PART}-features svg .role-axis-label text").get_by_text("1.output", exact=True)
    label.scroll_into_view_if_needed()
    label_place = tab.locator(f"{PART}-features .chart")
    name = label.bounding_box()
    tab.mouse.move(name["x"] + name["width"] / 2, name["y"] + name["height"] / 2)
    assert label_place.get_attribute("title") == "encoder.layer.1.output.LayerNorm"
    tab.mouse.click(name["x"] + name["width"] / 2, name["y"] + name["height"] / 2)
    assert chosen() == str(MINILM.index("encoder.layer.1.output.LayerNorm"))
    title = tab.locator(f"{PART}-features svg .role-axis-title text").first.bounding_box()
    tab.mouse.click(title["x"] + 5, title["y"] + 5)
    assert chosen() == str(MINILM.index("encoder.layer.1.output.LayerNorm"))


def test_a_pointer_over_a_mark_shows_its_numbers(tab: Any) -> None:
    tab.locator(f"{PART}-agreement svg .mark-rect path").nth(3).hover()
    tab.wait_for_selector("#vg-tooltip-element.visible")
    assert MINILM[3] in tab.inner_text("#vg-tooltip-element")


def test_print_shows_charts_on_white_and_no_controls(tab: Any) -> None:
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.locator("select").is_hidden()
    assert tab.locator("details").first.is_hidden()
    assert tab.locator("figure svg").first.is_visible()
    assert luminance(tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")) < 0.1
    assert tab.locator(".choice [role=status]").is_visible()
    tab.emulate_media(media="screen", color_scheme="light")


def test_hostile_strings_are_shown_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(page(breaking()), encoding="utf-8")
    for tab, noise in shown(browser, tmp_path / "x.html"):
        assert tab.locator("option").all_text_contents() == [printable(name) for name in BREAKING]
        bar = tab.locator(f"{PART}-agreement svg .mark-rect path").nth(8)
        bar.scroll_into_view_if_needed()
        bar.hover()
        tab.wait_for_selector("#vg-tooltip-element.visible")
        assert "onerror=alert(1)" in tab.inner_text("#vg-tooltip-element")
        assert tab.locator("img, iframe, b").count() == 0
        assert noise == []
