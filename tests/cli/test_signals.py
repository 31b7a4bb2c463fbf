"""Ctrl-C, SIGTERM and SIGHUP, whenever they come: an exit code, one line, and a result whole or not at all.

Programs send signals to themselves, so that no test depends on how fast a machine is.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import reports

ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
RESULT = b"interrupted: the result is written first; once more ends it at once\n"
ENDED = b"interrupted\n"

SENDS = """
import os, signal, sys
number, sys.argv[1:] = int(sys.argv[1]), sys.argv[2:]
def send():
    os.kill(os.getpid(), number)
"""
START = """
from normscope.cli.start import main
main()
"""


def finish(place: Path, number: int, arguments: str, before: str = "") -> tuple[int, bytes, bytes]:
    """Run the command line after some code; return the exit code and both outputs, and see what is left."""
    command = [sys.executable, "-c", SENDS + before + START, str(int(number)), *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False
    )
    assert not list(place.rglob("*.part"))
    return done.returncode, done.stdout, done.stderr


# While modules are imported

IMPORTED = """
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            send()
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "arguments", "number", "code"),
    [
        ("typer", "--version", signal.SIGINT, 130),
        ("normscope.cli.app", "--version", signal.SIGHUP, 129),
        ("normscope.results.glossary.lookup", "explain", signal.SIGTERM, 143),
        ("torch.nn", "inspect m text", signal.SIGINT, 130),
        pytest.param("transformers", "inspect m text", signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_modules_are_imported(
    tmp_path: Path, module: str, arguments: str, number: int, code: int
) -> None:
    ended = finish(tmp_path, number, arguments, IMPORTED.format(name=module))
    assert ended == (code, b"", ENDED)


# While a command works

WORKS = """
from normscope.results.glossary import lookup
find_entries = lookup.find_entries
def work(name):
    {what}
    return find_entries(name)
lookup.find_entries = work
"""
SEVERAL = """
    try:
        send()
    finally:
        try:
            send()
        finally:
            send()
"""


@pytest.mark.parametrize(("number", "code"), ENDS)
@pytest.mark.parametrize("what", ["send()", SEVERAL], ids=["one", "several"])
def test_a_signal_while_a_command_works(tmp_path: Path, number: int, code: int, what: str) -> None:
    ended = finish(tmp_path, number, "explain agreement -o out", WORKS.format(what=what))
    assert ended == (code, b"", ENDED)
    assert not (tmp_path / "out").exists()


def test_a_signal_in_a_callback_that_drops_exceptions(tmp_path: Path) -> None:
    what = "type('Dropped', (), {'__del__': lambda self: send()})()"
    ended = finish(tmp_path, signal.SIGINT, "explain agreement", WORKS.format(what=what))
    assert ended == (130, b"", ENDED)


def test_signals_as_fast_as_they_can_be_sent(tmp_path: Path) -> None:
    work = WORKS.format(what="print('works', file=sys.stderr, flush=True); import time; time.sleep(600)")
    command = [sys.executable, "-c", SENDS + work + START, "2", "explain", "agreement"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"works\n"
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert (process.returncode, process.stderr.read()) == (130, ENDED)


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""
    before = "signal.signal(number, signal.SIG_IGN)\n" + WORKS.format(what="send()")
    code, out, err = finish(tmp_path, signal.SIGHUP, "explain agreement", before)
    assert (code, err) == (0, b"")
    assert out.startswith(b"agreement")


# While results are written

WRITES = """
synced = os.fsync
def fsync(handle):
    {what}
    synced(handle)
os.fsync = fsync
"""


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        *[("explain agreement", *end) for end in ENDS],
        ("compare a.json a.json", signal.SIGTERM, 143),
        pytest.param("report a.json", signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_the_first_signal_lets_a_result_be_written(
    tmp_path: Path, command: str, number: int, code: int
) -> None:
    reports.minilm().to_json(tmp_path / "a.json")
    assert finish(tmp_path, number, f"{command} -o whole.html") == (0, b"", b"")
    ended = finish(tmp_path, number, f"{command} -o out.html", WRITES.format(what="send()"))
    assert ended == (code, b"", RESULT)
    assert (tmp_path / "out.html").read_bytes() == (tmp_path / "whole.html").read_bytes()


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_the_second_signal_ends_the_writing(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "out").write_text("before")
    ended = finish(tmp_path, number, "explain agreement -o out", WRITES.format(what="send(); send()"))
    assert ended == (code, b"", RESULT + ENDED)
    assert (tmp_path / "out").read_text() == "before"


RUN = """
import types
from normscope.models import loading
from tests.support import reports
loading.load = lambda *given: loading.Loaded(None, None, "m", None, None, ())
scan = types.ModuleType("normscope.analyses.inspect")
scan.inspect, scan.layer_names = lambda *given, **named: reports.minilm(), None
sys.modules["normscope.analyses.inspect"] = scan
from normscope.statistics import moments_file, position_tables_file as tensors_file
def write(report, path):
    from normscope.results.atomic_write import write_whole
    write_whole(path, "written")
moments_file.write_moments = tensors_file.write_tensors = write
"""


def test_all_results_are_written_after_a_signal(tmp_path: Path) -> None:
    """It comes while the first of three is written."""
    before = RUN + WRITES.format(what="send() if not os.path.exists('moments') else None")
    arguments = "inspect m text --json -o out.json --moments moments --tensors tensors"
    assert finish(tmp_path, signal.SIGTERM, arguments, before) == (143, b"", RESULT)
    assert json.loads((tmp_path / "out.json").read_text()) == reports.minilm().to_dict()
    assert [(tmp_path / name).read_text() for name in ("moments", "tensors")] == ["written", "written"]


# While Python ends


def test_a_signal_once_a_command_is_done(tmp_path: Path) -> None:
    """In what is called at the exit, where an exception is a traceback."""
    arguments, before = "explain agreement -o out", "from normscope.cli import signals; signals.install()\n"
    ended = finish(tmp_path, signal.SIGINT, arguments, before + "import atexit; atexit.register(send)\n")
    assert ended == (130, b"", ENDED)
    assert (tmp_path / "out").exists()


def test_a_signal_in_the_teardown_of_modules(tmp_path: Path) -> None:
    """What a command is asked for is done by then, and what it ends with is settled."""
    before = "class Last:\n    def __del__(self, kill=os.kill, pid=os.getpid(), number=number):\n"
    before += "        kill(pid, number)\nlast = Last()\n"
    ended = finish(tmp_path, signal.SIGINT, "explain agreement -o out", before)
    assert ended == (0, b"", b"")
