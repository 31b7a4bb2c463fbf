"""The command line from outside: streams, exit codes, and what it asks of the library."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from normscope import __version__
from normscope.cli import progress_bar as progress_module
from normscope.cli.app import app
from normscope.cli.output import Output
from normscope.cli.text_options import TextOptions
from normscope.data.sample_sentences import SENTENCES
from normscope.errors import ModelError, RunError, UsageError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.norms.detection import select
from normscope.render.inspect import render_report
from normscope.render.plots import render_plots
from normscope.results.inspect import Report
from normscope.results.reading import read_report
from tests.cli.test_help import GROUP
from tests.support import reports
from tests.support.reports import MINILM

# The library's place is taken, so that a subprocess needs no model and no torch: MODEL says what happens.
STUB = """
import os, sys, types
from normscope.results.reading import read_report
def load(model, options, kinds):
    if model == "interrupt":
        raise KeyboardInterrupt
    return types.SimpleNamespace(id=model, warnings=())
def inspect(loaded, texts, **options):
    texts = list(texts)
    if loaded.id == "bug":
        raise ZeroDivisionError("a bug")
    return read_report(os.path.join(os.environ["REPORTS"], loaded.id + ".json"))
loading, scan = map(types.ModuleType, ("normscope.models.loading", "normscope.analyses.inspect"))
loading.load, scan.inspect, scan.layer_names = load, inspect, None
sys.modules.update({module.__name__: module for module in (loading, scan)})
from normscope.cli.start import main
main()
"""


@dataclass(frozen=True)
class Moment:
    """What `normscope.analyses.inspect.Progress` looks like, without the import of torch."""

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float = 2.0


class Library:
    """Stands in for `load` and `inspect`: keeps what it was called with, does what it is told."""

    def __init__(self) -> None:
        self.report = reports.minilm()
        self.error: BaseException | None = None
        self.calls: list[dict[str, Any]] = []

    def load(self, model: str, options: Loading, kinds: Sequence[str]) -> Loaded:
        self.loading = options
        return Loaded(None, None, model, None, None, ())  # type: ignore[arg-type]

    def layer_names(self, loaded: Loaded, only: Sequence[str], exclude: Sequence[str]) -> list[str]:
        return [
            name for name in self.report.layers if name in select(list(self.report.layers), only, exclude)
        ]

    def inspect(self, loaded: Loaded, texts: Iterable[str], **options: Any) -> Report:
        self.calls.append({"model": loaded.id, "texts": list(texts), "loading": self.loading, **options})
        if self.error:
            raise self.error
        return self.report


@pytest.fixture(autouse=True, scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write the reports that STUB reads."""
    folder = tmp_path_factory.mktemp("reports")
    for make in (reports.minilm, reports.hostile):
        make().to_json(folder / f"{make.__name__}.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPORTS", str(folder))
        yield


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    fake, module = Library(), ModuleType("normscope.analyses.inspect")
    module.inspect, module.layer_names = fake.inspect, fake.layer_names  # type: ignore[attr-defined]
    monkeypatch.setattr("normscope.models.loading.load", fake.load)
    monkeypatch.setitem(sys.modules, "normscope.analyses.inspect", module)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv(progress_module.VARIABLE, "")
    return fake


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, ["inspect", *arguments], input=input)


def start(*arguments: str, stdout: Any = subprocess.PIPE, **environment: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", STUB, "inspect", *arguments]
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**inherited, **environment},
    )


def finish(*arguments: str, **environment: str) -> tuple[int, bytes, bytes]:
    with start(*arguments, **environment) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# What comes out


def test_table_goes_to_stdout(library: Library) -> None:
    result = run("m", "a text")
    assert (result.exit_code, result.stdout, result.stderr) == (0, render_report(library.report), "")


def test_details_and_every_layer_come_when_asked(library: Library) -> None:
    library.report = reports.deep()
    details = render_report(library.report, detailed=True)
    every = render_report(library.report, every_layer=True)
    assert run("m", "a text", "--details").stdout == details
    assert run("m", "a text", "--layers", "all").stdout == every
    assert run("m", "a text", "--layers", "few").stdout == render_report(library.report)
    assert len({details, every, render_report(library.report)}) == 3
    assert run("m", "a text", "--layers", "none").exit_code == 2
    assert run("m", "a text", "--format", "markdown").stdout.count("| model") == 161


def test_json_is_exactly_the_report(library: Library) -> None:
    for option in (["--json"], ["--format", "json"]):
        assert run("m", "a text", *option).stdout == library.report.to_json()


def test_markdown(library: Library) -> None:
    assert run("m", "a text", "--format", "markdown").stdout.startswith("## sentence-transformers/all-MiniLM")


def test_two_formats_are_wrong_usage(library: Library) -> None:
    result = run("m", "a text", "--json", "--format", "markdown")
    assert result.exit_code == 2
    assert not library.calls


def test_layer_chooses_tables(library: Library) -> None:
    result = run("m", "a text", "--layer", "*.0.*", "--layer", "emb*", "--top", "2")
    assert [name for name in MINILM if f"\n{name} ·" in result.stdout] == MINILM[:3]
    assert result.stdout.count("2 of 40 positions") == 3
    assert library.calls[0]["layers"] == ()


def test_layer_restricts_json(library: Library) -> None:
    run("m", "a text", "--layer", "*.0.*", "--json")
    assert list(library.calls[0]["layers"]) == ["*.0.*"]


def test_layer_that_matches_nothing(library: Library) -> None:
    result = run("m", "a text", "--layer", "nope*")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'nope*'" in result.stderr
    assert MINILM[0] in result.stderr


def test_verbose_shows_full_names(library: Library) -> None:
    assert "own error" not in run("m", "a text").stdout
    result = run("m", "a text", "--verbose").stdout
    assert "own error" in result
    assert all(name in result for name in MINILM)


def test_warnings_go_to_stderr(library: Library) -> None:
    library.report = replace(library.report, warnings=tuple(f"[b]w{i}\x1b\n" for i in range(8)))
    result = run("m", "a text")
    assert result.stderr.splitlines() == [
        *(rf"warning: [b]w{i}\x1b\n" for i in range(5)),
        "warning: 3 more; --verbose shows them all",
    ]
    assert "w0" not in result.stdout
    assert len(run("m", "a text", "-v").stderr.splitlines()) == 8
    assert run("m", "a text", "-q").stderr == ""


# What the library is asked


def test_options_reach_the_library(library: Library, tmp_path: Path) -> None:
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"a": "from a file"}\n')
    chosen = "--field a --limit 9 --max-length 8 -b 4 --order given --special-tokens exclude --exclude x.*"
    loading = "--revision r --token t --cache-dir c --local-files-only --trust-remote-code --device cpu"
    rules = "--exclude-tokens 5,[SEP] --skip-first 2 --drop-massive --chat-template --roles user,assistant"
    more = "--unique --dtype float16 --attn-implementation eager --random-weights --words"
    result = run("m", "one", "-f", str(texts), *f"{chosen} {rules} {loading} {more}".split())
    assert result.exit_code == 0
    (call,) = library.calls
    assert call["texts"] == ["one", "from a file"]
    assert vars(call["batching"]) == {
        "batch_size": 4,
        "max_length": 8,
        "order": "given",
        "special_tokens": "exclude",
        "limit": 9,
        "unique": True,
        "exclude_tokens": (5, "[SEP]"),
        "skip_first": 2,
        "drop_massive": True,
        "chat_template": True,
        "roles": ("user", "assistant"),
    }
    assert vars(call["loading"]) == {
        "revision": "r",
        "token": "t",
        "cache_dir": "c",
        "local_files_only": True,
        "trust_remote_code": True,
        "device": "cpu",
        "dtype": "float16",
        "attn_implementation": "eager",
        "device_map": None,
        "random_weights": True,
    }
    assert call["exclude"] == ["x.*"]
    assert call["words"] is True


def test_defaults_are_the_librarys(library: Library) -> None:
    from normscope.data.batching import Batching
    from normscope.models.location import Loading

    run("m", "a text")
    assert (library.calls[0]["batching"], library.calls[0]["loading"]) == (Batching(), Loading())
    assert library.calls[0]["words"] is False


def test_a_pipe_is_read(library: Library) -> None:
    assert run("m", input="one\ntwo\n").exit_code == 0
    run("m", "zero", "-", input="one\n")
    assert [call["texts"] for call in library.calls] == [["one", "two"], ["zero", "one"]]


def test_an_empty_pipe_fails_before_the_model_is_loaded(library: Library) -> None:
    for named in ([], ["-"]):
        result = run("m", *named, input="")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: no text on standard input; expected")
    assert not library.calls


def test_an_empty_file_fails_before_the_model_is_loaded(library: Library, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    result = run("m", "-f", str(tmp_path / "empty.txt"))
    assert result.exit_code == 1
    assert "empty.txt'; expected one text a line" in result.stderr
    assert not library.calls


def test_built_in_sentences_at_a_terminal(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.cli.text_options._is_terminal", lambda stream: True)
    result = run("m")
    assert result.stderr == "no text given: using the built-in sentences that the model can read\n"
    assert library.calls[0]["texts"] == list(SENTENCES)
    assert run("m", "-q").stderr == ""
    assert run("m", "--field", "a").exit_code == 2


SOURCES = """
import sys
from normscope.cli.text_options import TextOptions
print(list(TextOptions(text=sys.argv[1:]).feed(token=None, quiet=False))[:2])
"""


def fed(*arguments: str, **options: Any) -> tuple[str, str]:
    """What a command of these arguments reads, and what it says, with another standard input."""
    command = [sys.executable, "-c", SOURCES, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return done.stdout, done.stderr


def test_no_input_at_all_takes_the_built_in_sentences() -> None:
    out, err = fed(stdin=subprocess.DEVNULL)
    assert out == f"{list(SENTENCES[:2])}\n"
    assert err == "no text given: using the built-in sentences that the model can read\n"
    out, err = fed("-", stdin=subprocess.DEVNULL)
    assert "no text on standard input" in err


def test_a_pipe_beside_texts_is_said_not_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "some").write_text("one\n")
    reader, writer = os.pipe()
    os.write(writer, b"one\n")
    with (tmp_path / "some").open() as file:
        for stdin in (reader, file):
            assert fed("text", stdin=stdin) == (
                "['text']\n",
                "standard input is not read, since texts were named; name - to read it, too\n",
            )
    os.read(reader, 10)
    for stdin in (reader, subprocess.DEVNULL):
        assert fed("text", stdin=stdin) == ("['text']\n", "")
    os.write(writer, b"one\n")
    os.close(writer)
    assert fed("text", "-", stdin=reader) == ("['text', 'one']\n", "")
    os.close(reader)


def test_waiting_for_a_pipe_is_said(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.cli.text_options.PATIENCE", 0.05)
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        time.sleep(0.5)
        (tmp_path / "pipe").write_text("late\n")

    writer = threading.Thread(target=write)
    writer.start()
    result = run("m", "-f", str(tmp_path / "pipe"))
    writer.join()
    assert "waiting for the first text of '" in result.stderr
    assert library.calls[0]["texts"] == ["late"]


# How it ends


@pytest.mark.parametrize(("error", "code"), [(ModelError, 1), (RunError, 1), (UsageError, 2)])
def test_our_errors_are_one_line(library: Library, error: type[Exception], code: int) -> None:
    library.error = error("no [red]model[/] '\x1b[31m\u202ex'\nhere")
    result = run("m", "a text")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: no [red]model[/] '\\x1b[31m\\u202ex'\\nhere\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m", "--no-such"],
        ["m", "--top", "0"],
        ["m", "-b", "x"],
        ["m", "t", "-b", "0"],
        ["m", "t", "--dtype", "x"],
    ],
)
def test_wrong_usage(library: Library, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "rror: " in result.stderr
    assert not library.calls


def test_interrupt() -> None:
    assert finish("interrupt", "t") == (130, b"", b"interrupted\n")


def test_a_bug_shows_its_plain_traceback() -> None:
    code, out, err = finish("bug", "t")
    assert (code, out) == (1, b"")
    assert err.startswith(b"Traceback (most recent call last):")
    assert err.endswith(b"ZeroDivisionError: a bug\n")


@pytest.mark.parametrize("format", ["table", "json", "markdown"])
def test_a_closed_pipe_ends_quietly(format: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with start("minilm", "t", "--format", format, stdout=writer) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


WRITES = """
import resource, sys
from normscope.cli.output import Output
from normscope.errors import ReportError
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    Output(None).write(["a line\\n" * 300, "\\u00e4 longer one\\n" * 300][: int(sys.argv[1])])
except ReportError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_fills_up_below_standard_output_is_told(tmp_path: Path, unbuffered: str) -> None:
    """Without a buffer Python writes what there is room for, and forgets the rest."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONIOENCODING": "latin-1"}
    ended = []
    for pieces in ("1", "2"):
        with (tmp_path / "out").open("wb") as out:
            command = [sys.executable, "-c", WRITES, pieces]
            ended.append(
                subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environment, check=False)
            )
    assert (ended[0].returncode, ended[0].stderr) == (0, b"")
    said = b"cannot write to standard output: File too large; free some space\n"
    assert (ended[1].returncode, ended[1].stderr) == (1, said)
    expected = b"a line\n" * 300 + b"\xe4 longer one\n" * 300
    assert (tmp_path / "out").read_bytes() == expected[:5000]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("w") as full, start("minilm", "t", stdout=full) as process:
        assert process.stderr is not None
        assert process.stderr.read().startswith(b"error: cannot write to standard output: No space left")
    assert process.returncode == 1


def test_plain_ascii_terminals() -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for format in ("table", "markdown"):
        code, out, err = finish("hostile", "t", "--format", format, **ascii_only)
        assert (code, out.isascii(), err.isascii()) == (0, True, True)
    code, out, _ = finish("hostile", "t", "--json", **ascii_only)
    assert (code, out.isascii()) == (0, True)
    assert json.loads(out) == json.loads(reports.hostile().to_json())


def test_the_width_of_a_pipe() -> None:
    plain = render_report(reports.minilm()).encode()
    assert finish("minilm", "t") == (0, plain, b"")
    _, wide, _ = finish("minilm", "t", COLUMNS="200")
    assert max(map(len, wide.decode().splitlines())) > 150


def test_colour_and_progress_at_a_terminal_only() -> None:
    pty = pytest.importorskip("pty")
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        leader, follower = pty.openpty()
        with start("minilm", "t", stdout=follower, **{"TERM": "xterm", **environment}):
            os.close(follower)
            shown = b""
            while chunk := _read(leader):
                shown += chunk
        os.close(leader)
        assert (b"\x1b[1;36mLN variance" in shown, b"\x1b" in shown) == (coloured, coloured)


def _moment(*values: Any) -> Any:
    return Moment(*values)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says EIO when the other end of a terminal is closed
        return b""


# --output


def test_output_is_written_whole(library: Library, tmp_path: Path) -> None:
    target = tmp_path / "report"
    assert run("m", "t", "-o", str(target)).stdout == ""
    assert target.read_text(encoding="utf-8") == render_report(library.report)
    run("m", "t", "--json", "-o", str(target))
    assert read_report(target).to_json() == library.report.to_json()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_output_stays_when_the_run_fails(library: Library, tmp_path: Path) -> None:
    target = tmp_path / "report"
    target.write_text("before")
    library.error = RunError("out of memory")
    assert run("m", "t", "-o", str(target)).exit_code == 1
    assert target.read_text() == "before"


def test_output_is_checked_before_the_work(library: Library, tmp_path: Path) -> None:
    for bad in (tmp_path / "none" / "report", tmp_path):
        result = run("m", "t", "-o", str(bad))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: cannot write {str(bad)!r}: ")
    assert run("m", "t", "-o", "").exit_code == 1
    assert not library.calls
    assert run("m", "t", "-o", "-").stdout == render_report(library.report)


def test_the_suffix_of_the_output_chooses_the_format(library: Library, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    result = run("m", "t", "--layer", "*.0.*", "-o", str(target))
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(read_report(target).layers) == 2
    assert list(library.calls[0]["layers"]) == ["*.0.*"], "as with --json, only what is shown is measured"
    result = run("m", "t", "--plot", "-o", str(target))
    assert result.stderr == f"warning: --output {str(target)!r} ends as json does, but a plot is written\n"
    assert target.read_text(encoding="utf-8") == render_plots(library.report)
    result = run("m", "t", "--dry-run", "-o", str(tmp_path / "plan.csv"))
    assert (result.exit_code, "--dry-run came with the format csv; expected" in result.stderr) == (2, True)


def test_a_file_that_grows_is_another_corpus_to_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("one\n")
    corpus = TextOptions(file=[str(tmp_path / "texts"), "-"])
    before = corpus.facts
    assert corpus.facts == before
    (tmp_path / "texts").write_text("one\ntwo\n")
    assert [name for name, fact in corpus.facts.items() if before[name] != fact] == ["file sizes"]


# Starting up


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, help] for name in GROUP.commands for help in ("--help", "--help-all")),
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"torch", "transformers", "numpy", "rich", "pydantic"}
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = ['normscope', *{arguments!r}]\n"
        "from normscope.cli.start import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_version_and_no_command() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"normscope {__version__}\n"
    assert CliRunner().invoke(app, []).exit_code == 2


# Progress


def test_progress_is_off_when_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv(progress_module.VARIABLE, "")
    assert progress_module.wanted(quiet=False)
    monkeypatch.setenv(progress_module.VARIABLE, "1")
    assert not progress_module.wanted(quiet=False)
    monkeypatch.setenv(progress_module.VARIABLE, "")
    assert not progress_module.wanted(quiet=True)
    assert os.environ[progress_module.VARIABLE] == "1"


def test_progress_bar_draws_on_stderr_and_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stream for a terminal
    with progress_module.ProgressBar("[b]m\x1b", shown=True) as bar:
        bar(_moment("load", 0, 0, None))
        for expected in (None, 20, 5):
            bar(_moment("run", 10, 1234, expected))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("loading [b]m\\x1b\n")
    assert " 617 tokens/s" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", err)
    assert err.rstrip().endswith("\x1b[2K")
    with progress_module.ProgressBar("m", shown=False) as bar:
        bar(_moment("run", 10, 1234, 20))
    assert capsys.readouterr() == ("", "")


# --plot


def test_a_plot_stands_in_for_the_tables(library: Library, tmp_path: Path) -> None:
    plot = render_plots(library.report)
    assert run("m", "t", "--plot").stdout == plot
    assert "agreement" in plot
    assert "distance" not in plot
    target = tmp_path / "plot.txt"
    assert run("m", "t", "--plot", "--format", "table", "-o", str(target)).stdout == ""
    assert target.read_text(encoding="utf-8") == plot
    shown = run("m", "t", "--plot", "--layer", "emb*").stdout
    assert shown == render_plots(library.report, layers=MINILM[:1])


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "markdown"])
def test_a_plot_has_no_other_format(library: Library, format: str) -> None:
    result = run("m", "t", "--plot", "--format", format)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: --plot and --format {format} were both given; a plot is for reading only; drop one\n"
    )
    assert run("m", "t", "--plot", "--json").exit_code == 2
    assert not library.calls


def test_a_plot_is_plain_where_colour_or_unicode_is_not_wanted() -> None:
    pty = pytest.importorskip("pty")
    terminals = {"xterm-256color": ";48;5;", "xterm": "\x1b[35m", "dumb": ""}
    for terminal, escape in terminals.items():
        leader, follower = pty.openpty()
        with start("minilm", "t", "--plot", stdout=follower, TERM=terminal, COLORTERM=""):
            os.close(follower)
            shown = b""
            while chunk := _read(leader):
                shown += chunk
        os.close(leader)
        text = shown.decode().replace("\r\n", "\n")
        assert escape in text
        assert escape or text == render_plots(reports.minilm())
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    code, out, err = finish("minilm", "t", "--plot", **ascii_only)
    assert (code, out.isascii(), err) == (0, True, b"")
    assert b"@" in out


def test_how_many_colours_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    many = [("screen-256color", ""), ("xterm", "truecolor"), ("xterm", "")]
    for (terminal, colours), palette in zip(many, (True, True, False), strict=True):
        monkeypatch.setenv("TERM", terminal)
        monkeypatch.setenv("COLORTERM", colours)
        assert (Output(None).screen().colour, Output(None).screen().palette) == (True, palette)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert not Output(None).screen().palette
