"""`normscope swap`: what it shows at any width, what it asks of the library, and what it refuses."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

import normscope
from normscope.analyses.swap.options import FIRSTS, REPLACEMENTS, Swapping
from normscope.cli.app import app
from normscope.cli.commands.swap import First, SwapKind
from normscope.data.batching import Batching
from normscope.errors import ReportError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.render.swap import finding, render_swap, render_swap_markdown
from normscope.render.terminal import Screen
from normscope.results.swap import SwapReport
from tests.support import models, reports
from tests.support.reports import HOSTILE, LLAMA, MINILM

Golden = Callable[[str, str], None]


class Library:
    """Stands in for the run: keeps what it was called with."""

    def __init__(self) -> None:
        self.report = reports.swap_report()
        self.calls: list[dict[str, Any]] = []

    def load(self, model: str, options: Loading) -> Loaded:
        self.loading = options
        return Loaded(None, None, model, None, None, ())  # type: ignore[arg-type]

    def swap(self, loaded: Loaded, texts: Iterable[str], **options: Any) -> SwapReport:
        known = options.pop("calibration")
        called = {"model": loaded.id, "loading": self.loading, "texts": list(texts), **options}
        self.calls.append({**called, "calibration": None if known is None else list(known)})
        return self.report


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    fake = Library()
    module = ModuleType("normscope.analyses.swap.analysis")
    module.swap = fake.swap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("normscope.models.loading.load", fake.load)
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["swap", *arguments], input=input)


# What it shows


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("head", [None, "causal"])
def test_golden(width: int, head: str | None, golden: Golden) -> None:
    name = f"swap-{head}" if head else "swap"
    report = reports.swap_report(head=head, fold=head is not None)
    golden(f"{name}-{width}.txt", render_swap(report, screen=Screen(width)))


def test_golden_ascii_and_markdown(golden: Golden) -> None:
    report = reports.swap_report(MINILM[:3], cumulative=False, broken=True, fold=True)
    text = render_swap(report, screen=Screen(100, unicode=False))
    assert text.isascii()
    golden("swap-ascii-100.txt", text)
    golden("swap.md", render_swap_markdown(report))


@pytest.mark.parametrize("names", [MINILM, LLAMA, HOSTILE, ["n"]], ids=["minilm", "llama", "hostile", "one"])
@pytest.mark.parametrize("width", [1, 79, 80, 133, 500])
@pytest.mark.parametrize("head", [None, "masked", "\x1b[31mseq"])
def test_lines_fit_and_data_is_shown_not_obeyed(names: list[str], width: int, head: str | None) -> None:
    report = reports.swap_report(names, id="".join(HOSTILE), head=head, broken=True, fold=True)
    text = render_swap(report, screen=Screen(width))
    assert max(map(cell_len, text.splitlines())) <= max(width, 60)
    for shown in (text, render_swap_markdown(report)):
        assert all(c == "\n" or c.isprintable() for c in shown)
        shown.encode("utf-8")
        assert "nan" not in shown.lower()
        assert "inf" not in shown.lower()


def test_the_damage_is_said_in_a_sentence() -> None:
    report = reports.swap_report()
    alone = [layer.effect.damage for layer in report.layers.values()]
    one, every = f"{min(alone):.2g} to {max(alone):.2g}", f"{report.all_.effect.damage:.2g}"
    assert finding(report) == f"Damage: {one} for one layer replaced, {every} for all 13; 0 is no change."
    assert "one layer replaced (1 without a finite number), " in finding(reports.swap_report(broken=True))


@pytest.mark.parametrize("head", [None, "causal"])
def test_rows_and_bars_fall_with_the_damage(head: str | None) -> None:
    report = reports.swap_report(head=head, broken=True, cumulative=False)
    damages = [layer.effect.damage for layer in report.by_damage()]
    assert damages == sorted(damages, reverse=True)
    assert report.by_damage()[0].name == MINILM[0], "no numbers at all are the worst"
    table, _ = render_swap(report, screen=Screen(200)).split("All of them together")
    bars = [len(bar) for bar in re.findall(r"█*[▏▎▍▌▋▊▉█]", table)]
    assert len(bars) >= 12
    assert bars == sorted(bars, reverse=True)
    assert bars[0] == 20


def test_rendering_loads_no_torch() -> None:
    code = (
        "import json, sys\n"
        "from normscope.results.swap import SwapReport\n"
        "from normscope.render.swap import finding, render_swap\n"
        "import normscope.cli.commands.swap\n"
        "assert render_swap(SwapReport.from_dict(json.load(sys.stdin)))\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)\n"
    )
    text = json.dumps(reports.swap_report().to_dict())
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)


# The report


@pytest.mark.parametrize("head", [None, "causal"])
def test_a_report_comes_back_equal_from_json(head: str | None) -> None:
    report = reports.swap_report(head=head, broken=True, cumulative=head is None, fold=head is None)
    plain = json.loads(report.to_json())
    assert plain["schema"] == SwapReport.SCHEMA == "normscope.swap/1"
    assert [layer["name"] for layer in plain["layers"]] == MINILM
    assert plain["all"]["effect"]["hidden_cosine"]["mean"] == pytest.approx(0.03)
    assert plain["layers"][0]["effect"]["hidden_cosine"] == {"mean": None, "low": None, "high": None}
    assert (plain["layers"][1]["effect"]["kl"] is None) == (head is None)
    assert SwapReport.from_dict(plain) == report
    assert SwapReport.from_dict(plain).to_json() == report.to_json()


def test_other_json_is_refused() -> None:
    plain = reports.swap_report().to_dict()
    twice = plain["layers"][:1] * 2
    wrong: list[Any] = [[], {}, {**plain, "schema": "normscope.report/1"}, {**plain, "layers": twice}]
    for bad in wrong:
        with pytest.raises(ReportError, match="expected"):
            SwapReport.from_dict(bad)


# The command


def test_the_formats(library: Library, tmp_path: Path) -> None:
    report = library.report
    assert run("m", "a text").stdout == render_swap(report)
    assert run("m", "a text", "--json").stdout == report.to_json()
    assert run("m", "a text", "--format", "markdown").stdout == render_swap_markdown(report)
    assert run("m", "a text", "-o", str(tmp_path / "out"), "--json").stdout == ""
    assert (tmp_path / "out").read_text(encoding="utf-8") == report.to_json()
    assert run("m", "a text", "--json", "--format", "markdown").exit_code == 2
    assert "warning: a note" in run("m", "a text").stderr


def test_options_reach_the_library(library: Library, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("known\nwell\n", encoding="utf-8")
    options = [
        "--kind",
        "frozen",
        "--cumulative",
        "--recalibrate",
        "--fold",
        "--seed",
        "5",
        "-b",
        "4",
        "--order",
        "given",
        "--limit",
        "9",
    ]
    layers = ["--layer", "a.*", "--layer", "b", "--exclude", "x.*"]
    known = ["--calibration", str(tmp_path / "known.txt"), "--save", "d"]
    done = run("m", "one", *options, *layers, *known, "--device", "cpu", "--special-tokens", "exclude")
    assert done.exit_code == 0, done.stderr
    (call,) = library.calls
    assert (call["model"], call["texts"], call["calibration"]) == ("m", ["one"], ["known", "well"])
    assert call["swapping"] == Swapping("frozen", True, True, 5, True)
    assert call["batching"] == Batching(4, None, "given", "exclude", 9)
    assert call["loading"] == Loading(device="cpu")
    assert (call["layers"], call["exclude"], call["save"]) == (["a.*", "b"], ["x.*"], "d")


def test_position_0_apart_reaches_the_library(library: Library) -> None:
    assert run("m", "one", "--kind", "frozen", "--first", "apart").exit_code == 0
    assert library.calls[0]["swapping"] == Swapping("frozen", first="apart")
    assert tuple(first.value for first in First) == FIRSTS


def test_defaults_are_the_librarys(library: Library) -> None:
    run("m", "one")
    (call,) = library.calls
    assert (call["swapping"], call["batching"], call["loading"]) == (Swapping(), Batching(), Loading())
    assert (call["calibration"], call["save"]) == (None, None)
    assert tuple(kind.value for kind in SwapKind) == REPLACEMENTS


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "-1"],
        ["--kind", "identity", "--recalibrate"],
        ["--kind", "centre-sequence", "--recalibrate"],
        ["--kind", "batchnorm-batch", "--fold"],
        ["--kind", "rmsnorm", "--fold"],
        ["--kind", "dyt", "--fold"],
        ["--kind", "rmsnorm", "--recalibrate"],
        ["--kind", "frozen", "--first", "apart", "--fold"],
        ["--first", "apart"],
        ["--kind", "scale-feature", "--fold"],
        ["--kind", "centre-feature", "--fold"],
        ["--kind", "scale-sequence", "--fold"],
        ["--kind", "centre-sequence", "--fold"],
        ["--kind", "batchnorm-batch", "--batch-size", "auto"],
        ["--batch-size", "0"],
        ["--max-length", "0"],
    ],
)
def test_wrong_usage_is_told_before_the_model_is_loaded(library: Library, arguments: list[str]) -> None:
    result = run("m", "one", *arguments)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "expected" in result.stderr
    assert not library.calls


def test_an_empty_calibration_is_told_before_the_model_is_loaded(library: Library, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("", encoding="utf-8")
    result = run("m", "one", "--calibration", str(tmp_path / "none.txt"))
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "no text on" in result.stderr
    assert not library.calls


def test_help_all_explains_every_kind() -> None:
    text = run("--help-all").stdout
    for kind in REPLACEMENTS:
        assert f"\n    {kind} " in text


def test_a_real_model_end_to_end(tmp_path: Path, preloaded_commands: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(models.prose(24)), encoding="utf-8")
    command: list[str | Path] = [preloaded_commands / "normscope", "swap", "demo", "-f", tmp_path / "texts"]
    more = ["--max-length", "16", "--json", "--layer", "*.5.*", "--save", str(tmp_path / "kept")]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    plain = json.loads(done.stdout)
    assert done.stderr == ""
    assert (plain["run"]["texts"], plain["calibration"]["texts"]) == (12, 12)
    assert [layer["index"] for layer in plain["layers"]] == [11, 12]
    cosines = [layer["effect"]["hidden_cosine"] for layer in (*plain["layers"], plain["all"])]
    assert all(-1 < c["low"] <= c["mean"] <= c["high"] < 1 for c in cosines)
    known = normscope.read_calibration(tmp_path / "kept")
    assert (known.kind, list(known.replaced)) == ("batchnorm", [layer["name"] for layer in plain["layers"]])
