"""`normscope batches`: what it shows at any width, what it asks of the library, and what it refuses."""

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

from normscope.cli.app import app
from normscope.cli.options import memory, whole_numbers
from normscope.data.batch_sampling import Drawing
from normscope.data.batching import Batching
from normscope.errors import ReportError, UsageError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.norms.detection import select
from normscope.render.batch_plots import render_batch_plots
from normscope.render.batches import noisiest, render_batches, render_batches_markdown
from normscope.render.terminal import Screen
from normscope.results.batches import BatchReport
from tests.support import models, reports
from tests.support.reports import HOSTILE, LLAMA, MINILM

Golden = Callable[[str, str], None]


class Library:
    """Stands in for `load` and the run: keeps what it was called with."""

    def __init__(self) -> None:
        self.report = reports.batch_report()
        self.calls: list[dict[str, Any]] = []

    def load(self, model: str, options: Loading) -> Loaded:
        return Loaded(None, None, model, None, None, ())  # type: ignore[arg-type]

    def layer_names(self, loaded: Loaded, only: Any, exclude: Any) -> list[str]:
        names = list(self.report.layers)
        chosen = select(names, only, exclude)
        return [name for name in names if name in chosen]

    def batch_noise(self, loaded: Loaded, texts: Iterable[str], **options: Any) -> BatchReport:
        self.calls.append({"model": loaded.id, "texts": list(texts), **options})
        return self.report


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    fake = Library()
    for name, members in (("inspect", ["layer_names"]), ("batches", ["batch_noise"])):
        module = ModuleType(f"normscope.analyses.{name}")
        for member in members:
            setattr(module, member, getattr(fake, member))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("normscope.models.loading.load", fake.load)
    monkeypatch.delenv("COLUMNS", raising=False)
    return fake


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["batches", *arguments], input=input)


# What it shows


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_golden(width: int, momentum: float | None, golden: Golden) -> None:
    name = "batches-momentum" if momentum else "batches"
    text = render_batches(reports.batch_report(momentum=momentum), screen=Screen(width))
    golden(f"{name}-{width}.txt", text)


def test_golden_ascii_and_markdown(golden: Golden) -> None:
    report = reports.batch_report(MINILM[:3])
    text = render_batches(report, screen=Screen(100, unicode=False), top=4)
    assert text.isascii()
    golden("batches-ascii-100.txt", text)
    golden("batches.md", render_batches_markdown(report, top=4))


@pytest.mark.parametrize("names", [MINILM, LLAMA, HOSTILE, ["n"]], ids=["minilm", "llama", "hostile", "one"])
@pytest.mark.parametrize("width", [1, 79, 80, 133, 500])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_lines_fit_and_data_is_shown_not_obeyed(names: list[str], width: int, momentum: float | None) -> None:
    report = reports.batch_report(names, id="".join(HOSTILE), momentum=momentum)
    text = render_batches(report, layers=names, screen=Screen(width))
    assert max(map(cell_len, text.splitlines())) <= max(width, 60)
    for shown in (text, render_batches_markdown(report, layers=names)):
        assert all(c == "\n" or c.isprintable() for c in shown)
        shown.encode("utf-8")
        assert "nan" not in shown.lower()
    assert "\u00d71.19" in text


def test_the_noisiest_layer_is_shown_unless_others_are_asked_for() -> None:
    report = reports.batch_report()
    assert noisiest(report) == [MINILM[11]], "the last one is unknown"
    assert f"\n{MINILM[11]} ·" in render_batches(report)
    text = render_batches(report, layers=[MINILM[0], MINILM[12]])
    assert f"\n{MINILM[12]} · layernorm · no batches could be formed" in text
    assert f"\n{MINILM[11]} ·" not in text


def test_bars_rise_with_the_noise() -> None:
    rows = re.findall(
        r"(random|by length|as given) +([\d.]+) +±\S+ .* (█\S*)", render_batches(reports.batch_report())
    )
    assert len(rows) == 15
    by_noise = sorted(rows, key=lambda row: float(row[1]))
    assert [len(bar) for _, _, bar in by_noise] == sorted(len(bar) for _, _, bar in by_noise)
    assert len(by_noise[-1][2]) == 20


def test_chance_allows_for_batches_drawn_from_the_texts_they_are_compared_with() -> None:
    """sqrt(32 / 2 * (128 - 2) / (128 - 32)): sampling without replacement."""
    assert "would give 4.6." in render_batches(reports.batch_report())


def test_rendering_and_help_load_no_torch() -> None:
    code = (
        "import json, sys\n"
        "from normscope.results.batches import BatchReport\n"
        "from normscope.render.batches import render_batches\n"
        "import normscope.cli.commands.batches\n"
        "assert render_batches(BatchReport.from_dict(json.load(sys.stdin)))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    text = json.dumps(reports.batch_report().to_dict())
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)


# The report


def test_a_report_comes_back_equal_from_json() -> None:
    for report in (reports.batch_report(), reports.batch_report(momentum=0.1)):
        plain = json.loads(report.to_json())
        assert plain["schema"] == BatchReport.SCHEMA == "normscope.batches/1"
        assert [layer["name"] for layer in plain["layers"]] == MINILM
        assert plain["layers"][-1]["sizes"] is None
        assert BatchReport.from_dict(plain) == report
        assert BatchReport.from_dict(plain).to_json() == report.to_json()


def test_the_ratio_by_length_is_that_of_excess_noise_and_unknown_in_old_reports() -> None:
    report = reports.batch_report()
    rows = {(row.batch_size, row.order): row for row in report.layers[MINILM[0]].sizes or ()}
    ratio = rows[4, "length"].excess_noise / rows[4, "random"].excess_noise
    assert f"\u00d7{ratio:.2f}" == "\u00d71.19"
    assert "\u00d71.19" in render_batches(report)
    assert rows[4, "length"].tid.mean.mean / rows[4, "random"].tid.mean.mean == pytest.approx(1.32, abs=0.005)
    plain = report.to_dict()
    for row in [row for layer in plain["layers"] for row in layer["sizes"] or ()]:
        del row["excess_noise"]
    old = BatchReport.from_dict(plain)
    assert old != report
    for shown in (render_batches(old), render_batches_markdown(old)):
        assert not re.search(r"\u00d7\d\.\d\d", shown)
        assert "nan" not in shown


def test_other_json_is_refused() -> None:
    plain = reports.batch_report().to_dict()
    twice = plain["layers"][:1] * 2
    wrong: list[Any] = [[], {}, {**plain, "schema": "normscope.report/1"}, {**plain, "layers": twice}]
    for bad in wrong:
        with pytest.raises(ReportError, match="expected"):
            BatchReport.from_dict(bad)


# The command


def test_the_formats(library: Library, tmp_path: Path) -> None:
    report = library.report
    assert run("m", "a text").stdout == render_batches(report)
    assert run("m", "a text", "--json").stdout == report.to_json()
    assert run("m", "a text", "--format", "markdown").stdout == render_batches_markdown(report)
    assert run("m", "a text", "-o", str(tmp_path / "out"), "--json").stdout == ""
    assert (tmp_path / "out").read_text(encoding="utf-8") == report.to_json()
    assert run("m", "a text", "--json", "--format", "markdown").exit_code == 2


def test_a_plot(library: Library) -> None:
    assert run("m", "t", "--plot").stdout == render_batch_plots(library.report)
    shown = run("m", "t", "--plot", "--layer", "emb*").stdout
    assert shown == render_batch_plots(library.report, layers=MINILM[:1])
    calls = len(library.calls)
    for format in ("json", "markdown"):
        result = run("m", "t", "--plot", "--format", format)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--plot and --format {format}" in result.stderr
    assert len(library.calls) == calls


def test_options_reach_the_library(library: Library) -> None:
    options = (
        "--sizes 8,2 --draws 9 --seed 5 --momentum 0.2 --samples 70 --table-memory 2MB -b 4 --order given"
    )
    assert run("m", "one", *options.split(), "--special-tokens", "exclude", "--exclude", "x.*").exit_code == 0
    (call,) = library.calls
    assert call["texts"] == ["one"]
    assert call["drawing"] == Drawing((8, 2), 9, 5, 0.2, 70, 2_000_000)
    assert call["batching"] == Batching(4, None, "given", "exclude")
    assert list(call["exclude"]) == ["x.*"]


def test_defaults_are_the_librarys(library: Library) -> None:
    run("m", "one")
    assert library.calls[0]["drawing"] == Drawing()
    assert library.calls[0]["batching"] == Batching()


def test_layer_chooses_what_is_shown_and_what_json_has(library: Library) -> None:
    text = run("m", "one", "--layer", "*.0.*", "--top", "3").stdout
    assert [name for name in MINILM if f"\n{name} ·" in text] == MINILM[1:3]
    assert library.calls[0]["layers"] == ()
    run("m", "one", "--layer", "*.0.*", "--json")
    assert list(library.calls[1]["layers"]) == ["*.0.*"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sizes", "2,x"], ["--sizes", "0"], ["--sizes", ""], ["--table-memory", "many"],
        ["--momentum", "0"], ["--draws", "0"], ["--seed", "-1"], ["--samples", "0"],
    ],
)  # fmt: skip
def test_wrong_usage_is_told_before_the_model_is_loaded(library: Library, arguments: list[str]) -> None:
    result = run("m", "one", *arguments)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "expected" in result.stderr
    assert not library.calls


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512MiB", 512 << 20),
        ("2GB", 2 * 10**9),
        ("1.5g", 1_500_000_000),
        ("64 KiB", 65536),
        ("1000", 1000),
        ("1b", 1),
    ],
)
def test_amounts_of_memory(text: str, value: int) -> None:
    assert memory(text) == value


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1e3", "2XB", "1 2", "1i", "\x1b[31m"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 512MiB") as caught:
        memory(text)
    assert "\x1b" not in str(caught.value)


def test_lists_of_numbers() -> None:
    assert whole_numbers("--sizes", "8, 2,64") == (8, 2, 64)
    assert whole_numbers("--sizes", None) == ()
    for bad in ("2,", "a", "1.5", "-2"):
        with pytest.raises(UsageError, match="--sizes"):
            whole_numbers("--sizes", bad)


def test_a_real_model_end_to_end(tmp_path: Path, preloaded_commands: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(models.prose(24)), encoding="utf-8")
    command: list[str | Path] = [
        preloaded_commands / "normscope",
        "batches",
        "demo",
        "-f",
        tmp_path / "texts",
    ]
    more = ["--max-length", "16", "--sizes", "2,99", "--table-memory", "2MiB", "--json", "--layer", "*.5.*"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    warnings = done.stderr.splitlines()
    plain = json.loads(done.stdout)
    assert plain["kept"]["texts"] == (2 << 20) // (2 * 8 * (2 * 384 + 1)) or plain["kept"]["texts"] == 24
    assert warnings == ["warning: no batches of 99: only 24 texts are kept"]
    assert [len(layer["sizes"]) for layer in plain["layers"]] == [3, 3]
    rows = [row for layer in plain["layers"] for row in layer["sizes"]]
    assert all(row["tid"]["mean"]["mean"] > 0 and row["excess_noise"] > 0 for row in rows)
