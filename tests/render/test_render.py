"""Tables and Markdown: golden files, and what must hold for any report at any width."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Context, Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from normscope.escaping import counted, printable, quoted, reason
from normscope.render.axis_downsampling import spaced_rows
from normscope.render.glyphs import ASCII, UNICODE, shares
from normscope.render.inspect import render_report, render_report_markdown
from normscope.render.layer import distances, least_agreeing
from normscope.render.markdown import escape
from normscope.render.numbers import align, aligned, percent, short
from normscope.render.plots import render_plots
from normscope.render.short_names import shorten
from normscope.render.summary import model_size, workload
from normscope.render.terminal import Screen
from normscope.results.inspect import FeatureOutput, FeatureStats, LayerReport, Report
from tests.support import reports
from tests.support.reports import LLAMA, MINILM, NAN

Golden = Callable[[str, str], None]
MAKERS = [reports.minilm, reports.worded, reports.llama, reports.mixed, reports.hostile]


@pytest.mark.parametrize("width", [80, 200])
def test_golden_details(width: int, golden: Golden) -> None:
    golden(
        f"minilm-details-{width}.txt", render_report(reports.minilm(), detailed=True, screen=Screen(width))
    )


def test_golden_verbose_ascii(golden: Golden) -> None:
    screen = Screen(100, unicode=False)
    text = render_report(reports.mixed(), detailed=True, verbose=True, top=3, screen=screen)
    golden("mixed-verbose-ascii-100.txt", text)
    assert text.isascii()


def test_golden_markdown(golden: Golden) -> None:
    golden("minilm.md", render_report_markdown(reports.minilm(), detailed=True, top=3))
    golden("hostile.md", render_report_markdown(reports.hostile(), top=3, verbose=True))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [1, 60, 61, 79, 80, 99, 133, 500])
def test_lines_fit_and_nothing_is_cropped(make: Callable[[], Report], width: int) -> None:
    report = make()
    text = render_report(report, layers=[*report.layers][:4], screen=Screen(width), verbose=True)
    assert max(map(cell_len, text.splitlines())) <= max(width, 60)
    for number in ("0.980 ███", "0.010…0.83", "0.020 ±0.0050", "agreement"):
        assert number in text


def test_wide_screens_show_more() -> None:
    texts = [render_report(reports.minilm(), screen=Screen(width)) for width in (60, 80, 120, 200)]
    headers = [next(line for line in text.split("\n") if line.startswith("layer ")) for text in texts]
    assert list(map(len, headers)) == sorted(set(map(len, headers)))


def test_positions_of_tokens_that_are_left_out_have_no_row() -> None:
    whole = reports.minilm()
    stats = next(iter(whole.layers.values())).position
    assert stats is not None
    count = np.where(np.arange(len(stats.count)) == 0, 0, stats.count)
    layer = replace(next(iter(whole.layers.values())), position=replace(stats, count=count))
    run = replace(whole.run, special_tokens="exclude", positions=len(count))
    text = render_report(replace(whole, run=run, layers={layer.name: layer}), detailed=True)
    assert f"last at position {len(count) - 1}" in text
    assert "longest" not in text
    rows = text.partition("By position")[2].partition("By feature")[0]
    assert re.findall(r"^ *(\d+) +\d+\*? ", rows, re.MULTILINE)[0] == "1"


def test_layers_and_top_choose_what_is_detailed() -> None:
    text = render_report(reports.minilm(), layers=MINILM[:2], top=3)
    assert all(f"\n{name} · layernorm" in text for name in MINILM[:2])
    assert text.count("3 of 40 positions") == 2
    assert f"\n{MINILM[2]} ·" not in text


def test_default_layer_agrees_least_and_was_called() -> None:
    layers = [reports.layer(f"n{i}", i) for i in range(3)]
    layers[1] = replace(layers[1], agreement={"feature": NAN})
    assert least_agreeing(reports.report(layers)) == ["n2"]
    assert least_agreeing(reports.report([reports.uncalled("n"), replace(layers[1], name="m")])) == ["m"]
    assert least_agreeing(reports.report([reports.uncalled("n")])) == []


@pytest.mark.parametrize(
    "layers", [[], [reports.uncalled("n")], [reports.layer("n", features=1, positions=1)]]
)
def test_hardly_anything_measured(layers: list[LayerReport]) -> None:
    report = reports.report(layers)
    shown = list(report.layers)
    number = counted(len(layers), "normalization layer")
    assert number in render_report(report, layers=shown)
    assert number in render_report_markdown(report, layers=shown)


def test_unknown_numbers_are_dashes() -> None:
    nothing = np.full(48, NAN)
    bare = replace(
        reports.layer("n"),
        own_output=FeatureOutput(nothing, nothing),
        feature=FeatureStats(5, nothing, nothing),
        agreement={"feature": NAN},
    )
    text = render_report(reports.report([bare]), layers=["n"])
    assert "nan" not in text.lower()
    assert re.search(r"^n .* -  +- ", text, re.MULTILINE)


@pytest.mark.parametrize("verbose", [False, True])
def test_hostile_strings_are_shown_not_obeyed(verbose: bool) -> None:
    report = reports.hostile()
    shown = list(report.layers)
    plain = render_report(report, layers=shown, verbose=verbose, screen=Screen(300))
    bold = render_report(report, layers=shown, verbose=verbose, screen=Screen(300, colour=True))
    for text in (
        plain,
        re.sub(r"\x1b\[[\d;]*m", "", bold),
        render_report_markdown(report, layers=shown, verbose=verbose),
    ):
        assert all(c == "\n" or c.isprintable() for c in text)
        text.encode("utf-8")
    for name in ("[red]bold[/red]", r"\x1b[31mred\x1b[0m", r"right\u202etfel", r"two\nlines\r\tand a tab"):
        assert name in plain


def test_colour_only_when_asked() -> None:
    assert "\x1b" not in render_report(reports.minilm())
    coloured = render_report(reports.minilm(), screen=Screen(80, colour=True))
    assert "\x1b[1;36mLN variance" in coloured
    assert "\x1b[1;35mBN variance" in coloured


def test_markdown_tables_have_one_width() -> None:
    for make in MAKERS:
        text = render_report_markdown(make(), verbose=True)
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_markdown_escapes() -> None:
    assert escape("a|b`c`<i>*_#1 @me [x](y) \\") == (r"a\|b\`c\`&lt;i&gt;\*\_\#1 &#64;me \[x\](y) " + "\\\\")


@pytest.mark.parametrize("width", [8, 9, 12, 17, 20, 30, 60])
def test_shortened_names_fit_and_differ(width: int) -> None:
    for names in (
        MINILM,
        LLAMA,
        [*reports.mixed().layers],
        [*reports.hostile().layers],
        ["a" * 90, "b" * 90],
    ):
        cut = shorten(names, width, "…")
        assert len(set(cut)) == len(names)
        assert max(map(cell_len, cut)) <= width


def test_long_names_are_cut_in_linear_time() -> None:
    """Ten times the segments, or characters, take about ten times as long at most, and not a hundred."""

    def took(names: list[str]) -> float:
        start = time.process_time()
        cut = shorten(names, 24, "…")
        assert len(set(cut)) == len(names)
        assert max(map(cell_len, cut)) <= 24
        return time.process_time() - start

    few, many = ([f"{'segment.' * n}{i}" for i in range(8)] for n in (2_000, 20_000))
    assert took(many) < 40 * (took(few) + 0.01)
    assert took([f"{'x' * 1_000_000}{i}{'y' * 1_000_000}" for i in range(8)]) < 40 * (took(few) + 0.01)


def test_names_lose_the_least() -> None:
    assert shorten(MINILM, 42, "…") == MINILM
    assert shorten(MINILM, 40, "…")[:2] == ["embeddings", "encoder.layer.0.attention.output"]
    assert shorten(MINILM, 20, "…")[:3] == ["embeddings", "…0.attention.output", "…0.output"]
    assert shorten(LLAMA, 30, "…")[1::31] == ["…0.post_attention_layernorm", "model.norm"]


def test_short_numbers() -> None:
    written = [short(x) for x in (0.0, 1, -0.0123, 9.996, 312.4, 99900, 123456, 2.1e-4, -1e-12)]
    assert written == ["0", "1.00", "-0.0123", "10.0", "312", "99900", "1.2e5", "2.1e-4", "-1.0e-12"]
    assert [short(x, 2) for x in (NAN, math.inf, -math.inf, 0.999, 2300)] == [
        "-",
        "inf",
        "-inf",
        "1.0",
        "2300",
    ]
    assert [percent(x) for x in (0.1234, -0.0001, -0.02, NAN)] == ["12.3%", "0.0%", "-2.0%", "-"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 17))
@example(0.00096, 2)
@example(9.6e-5, 2)
@example(0.000996, 3)
@example(sys.float_info.max, 2)
def test_a_short_number_reads_back_as_the_rounded_value(value: float, digits: int) -> None:
    written = short(value, digits)
    kept = max(digits - ("e" in written), 1)
    exact = Decimal(value)
    assert Decimal(written) == (+exact if not exact else Context(prec=kept, Emax=400, Emin=-400).plus(exact))


@given(st.lists(st.floats(), min_size=1), st.integers(1, 17))
def test_columns_of_any_numbers_align(values: list[float], digits: int) -> None:
    texts = aligned(values, digits)
    assert [text.strip() for text in texts] == [short(value, digits) for value in values]
    assert len(set(map(len, texts))) == 1
    ends = {re.search(r"(?<=[\dfn-])(?=[.e ]|$)", text).start() for text in texts}  # type: ignore[union-attr]
    assert len(ends) == 1, "the whole parts end in one column"


def test_columns_align_on_the_decimal_point() -> None:
    texts = aligned([1.5, -20, 0.012, 2e-5, NAN])
    assert len({len(text) for text in texts}) == 1
    assert {text.index(".") for text in texts[:3]} == {3}
    assert align(["7", "1,024", "9.5%", "inf"]) == ["    7   ", "1,024   ", "    9.5%", "  inf   "]


def test_bars_and_sparks() -> None:
    assert [UNICODE.bar(x, 2) for x in (0, 0.5, 1, 7, NAN)] == ["", "█", "██", "██", ""]
    assert ASCII.bar(0.5, 4) == "##"
    assert UNICODE.spark([1, 2, NAN, 3], 9) == "▁▅ █"
    assert UNICODE.spark([], 9) == ""
    assert UNICODE.spark([4, 4], 9) == "▅▅"
    assert len(UNICODE.spark(range(1000), 40)) == 40
    assert shares([2, 4, 3]) == [0, 1, 0.5]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 10, 11, 40, 511, 100_000])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 10, 50])
def test_spaced_positions(length: int, most: int) -> None:
    rows = spaced_rows(length, most)
    assert 1 <= len(rows) <= most
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] == length - 1 or most == 1


def test_distance_is_squared_wasserstein() -> None:
    output = FeatureOutput(np.array([0.0, 3.0, NAN]), np.array([1.0, 4.0, 1.0]))
    np.testing.assert_allclose(distances(output), [0, 10, NAN])


def test_printable() -> None:
    assert printable("a\x00\x7f\u2028\ud800\U000e0001é") == r"a\x00\x7f\u2028\ud800\U000e0001é"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("at http://user:pass@host/a/b@c?x=1", "at http://...@host/a/b@c?x=1"),
        ("'https://key@host:80' and ftp://u:p@ss@h", "'https://...@host:80' and ftp://...@h"),
        (
            "https://host/a?token=abc&x=1&X-Amz-Signature=9f",
            "https://host/a?token=...&x=1&X-Amz-Signature=...",
        ),
        ("Bearer hf_abcdefghijklmnopqrst", "Bearer hf_..."),
        ("hf_hub_download of a@b, http://host/x@y", "hf_hub_download of a@b, http://host/x@y"),
    ],
)
def test_secrets_are_not_shown(given: str, shown: str) -> None:
    assert printable(given) == shown
    assert reason(OSError(given)) == shown.rstrip(".")
    assert quoted(given) == repr(shown)
    assert "pass" not in quoted("x" * 180 + "http://user:password" + "@host")


def test_saved_report_renders_without_torch() -> None:
    code = (
        "import json, sys\n"
        "from normscope.results.inspect import Report\n"
        "from normscope.render.inspect import render_report, render_report_markdown\n"
        "report = Report.from_dict(json.load(sys.stdin))\n"
        "assert render_report(report) and render_report_markdown(report)\n"
        "assert not {'torch', 'transformers', 'typer'} & set(sys.modules)\n"
    )
    text = json.dumps(reports.minilm().to_dict())
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("medium", "noun"), [("text", "text"), ("image", "image"), ("audio", "sound"), ("several", "sample")]
)
def test_what_was_fed_is_called_kind_of_file(medium: str, noun: str) -> None:
    report = reports.worded()
    report = replace(report, run=replace(report.run, medium=medium))
    screen = Screen(300)
    for text in (
        render_report(report, detailed=True, verbose=True, screen=screen),
        render_report_markdown(report, detailed=True, verbose=True),
        render_plots(report, screen=screen),
    ):
        assert f"64 {noun}s" in text
        assert f"BN: over all {noun}s" in text or f"fewer than 30 {noun}s" in text
        assert ("text" in text) == (medium == "text")
    names = [reports.layer("a text of texts")]
    shown = render_report(replace(report, layers={names[0].name: names[0]}), layers=[names[0].name])
    assert "a text of texts ·" in shown


def test_the_size_of_a_model_has_a_unit() -> None:
    sizes = {
        7: "7 parameters",
        45_100: "45.1K parameters",
        22_700_000: "22.7M parameters",
        70_600_000_000: "70.6B",
    }
    for parameters, written in sizes.items():
        assert model_size(parameters).startswith(written)


def test_unknown_padding_is_left_out() -> None:
    report = reports.minilm()
    images = replace(report, run=replace(report.run, padding_share=NAN))
    assert any(fact.startswith("padding") for fact in workload(report))
    assert not any(fact.startswith("padding") for fact in workload(images))
