"""Where results go: no input and no other result is replaced, and what cannot be written is told before."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from normscope.analyses.swap import calibration
from normscope.analyses.swap import fold_file as folds
from normscope.cli.commands.swap import SAVED
from normscope.errors import ReportError
from normscope.results.atomic_write import require_writable, write_whole
from tests.support import reports
from tests.support.command import ended, error_of, left_in


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder to be in, with what may be read; after each test it must be as it was."""
    files = ("corpus.txt", "a.json", "b.json", "m/config.json", "m/1_Pooling/config.json", "sounds/a.wav")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as it was")
    (tmp_path / "link.txt").symlink_to("corpus.txt")
    (tmp_path / "hard.txt").hardlink_to(tmp_path / "corpus.txt")
    (tmp_path / "m/linked.json").symlink_to("../sounds/a.wav")
    monkeypatch.chdir(tmp_path)
    yield
    assert all(Path(name).read_text() == "as it was" for name in files)
    assert not list(tmp_path.rglob("*.part"))


ONE_INPUT = [
    "inspect m -f corpus.txt -o corpus.txt",
    "inspect m -f corpus.txt -o ./m/../corpus.txt",
    "inspect m -f corpus.txt -o link.txt",
    "inspect m -f link.txt -o corpus.txt",
    "inspect m -f corpus.txt -o hard.txt",
    "inspect m -f corpus.txt --moments corpus.txt",
    "inspect m -f corpus.txt --tensors corpus.txt",
    "inspect m -f corpus.txt --checkpoint corpus.txt",
    "inspect m --dataset sounds -o sounds/a.wav",
    "inspect m --image corpus.txt -o corpus.txt",
    "inspect m --audio sounds/a.wav -o sounds/a.wav",
    "inspect m text -o m/config.json",
    "inspect m text -o m/1_Pooling/config.json",
    "inspect ./m/ text --moments m/config.json",
    "inspect m text -o sounds/a.wav -f sounds/a.wav",
    "inspect m text -o m/linked.json",
    "batches m -f corpus.txt -o corpus.txt",
    "batches m text -o m/config.json",
    "why m -f corpus.txt -o corpus.txt",
    "why m text -o m/config.json",
    "layers m -o m/config.json",
    "swap m -f corpus.txt -o corpus.txt",
    "swap m text --calibration corpus.txt -o corpus.txt",
    "swap m text -o m/config.json",
    "compare a.json b.json -o a.json",
    "compare a.json b.json -o b.json",
    "merge a.json b.json -o b.json",
    "merge a.json b.json --moments a.json",
    "report a.json -o a.json",
]


@pytest.mark.parametrize("line", ONE_INPUT)
def test_an_input_is_not_replaced(line: str) -> None:
    result = ended(line.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is read for" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "inspect m text -o out --moments out",
        "inspect m text -o out --tensors ./out",
        "inspect m text -o out --checkpoint m/../out",
        "inspect m text --moments out --tensors out",
        "merge a.json -o out --moments out",
        "swap m text -o kept --save kept",
        "swap m text -o sounds/normscope-fold.safetensors --save sounds",
        "swap m text -o sounds/normscope-calibration.safetensors --save ./m/../sounds/",
    ],
)
def test_two_results_do_not_share_a_file(line: str) -> None:
    result = ended(line.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected a file each" in result.stderr
    assert not Path("out").exists()
    assert not Path("kept").exists()


def test_the_files_that_swap_saves() -> None:
    assert (calibration.FILE.name, folds.FILE.name) == SAVED


def started(line: str, stdin: int, stdout: int) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "normscope", *line.split()]
    return subprocess.run(
        command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment, text=True, check=False
    )


def test_standard_input_and_output_are_files_too() -> None:
    with Path("corpus.txt").open("r+") as corpus:
        done = started("inspect m -o corpus.txt", corpus.fileno(), subprocess.PIPE)
        assert (done.returncode, done.stderr.count("read for standard input")) == (2, 1)
        done = started("inspect m -f corpus.txt", subprocess.DEVNULL, corpus.fileno())
        assert (done.returncode, done.stderr.count("read for --file")) == (2, 1)
    with Path("out").open("w") as out:
        done = started("inspect m text --moments out", subprocess.DEVNULL, out.fileno())
        assert (done.returncode, done.stderr.count("expected a file each")) == (2, 1)


def test_a_result_of_ours_beside_the_model_may_be_replaced() -> None:
    for text in (reports.minilm().to_json(indent=2), reports.minilm().to_json()):
        Path("m/out.json").write_text(text)
        assert "which is read for" not in ended(["inspect", "m", "text", "-o", "m/out.json"]).stderr


def test_a_name_that_is_no_file_is_no_input() -> None:
    """A Hub id may be the name of a result; it is looked for only after the places are found right."""
    assert "no config.json" in error_of(["inspect", "sounds", "text", "-o", "out"])
    assert "which is read" not in error_of(["layers", "a" * 5000, "-o", "corpus.out"])


@pytest.mark.parametrize("option", ["-o", "--moments", "--tensors", "--checkpoint"])
@pytest.mark.parametrize("name", ["new/", "sounds", "sounds/", "corpus.txt/"])
def test_a_folder_is_no_place(option: str, name: str) -> None:
    said = error_of(["inspect", "m", "text", option, name])
    assert "it is a folder; name a file in it" in said or "expected a file's name" in said
    assert not Path("new").exists()


@pytest.mark.parametrize("folder", ["corpus.txt", "corpus.txt/below", "blocked"])
def test_a_place_to_save_is_looked_at_before_the_work(folder: str) -> None:
    (Path("blocked") / SAVED[1]).mkdir(parents=True)
    said = error_of(["swap", "nowhere/", "text", "--save", folder])
    assert "folder" in said or "expected a file" in said
    assert "nowhere" not in said


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_given: object, **_named: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_folder_that_takes_no_file_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried with a real file: a file system that is full, or read-only, shows in no permission."""
    monkeypatch.setattr(Path, "write_bytes", refusing(errno.ENOSPC))
    lines = [
        "inspect m text -o new",
        "inspect m text -o b.json",
        "batches m text -o new",
        "swap m --save new",
    ]
    for line in [*lines, "compare a.json b.json -o new", "explain -o new"]:
        assert "No space left on device" in error_of(line.split())


def test_what_cannot_be_replaced_is_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is mounted by itself is busy for a rename, and takes what is written to it."""
    Path("mounted").write_text("before")
    Path("mounted").chmod(0o640)
    monkeypatch.setattr(Path, "replace", refusing(errno.EBUSY))
    write_whole("mounted", "after")
    assert (Path("mounted").read_text(), Path("mounted").stat().st_mode & 0o777) == ("after", 0o640)
    with pytest.raises(ReportError, match="busy"):
        write_whole("new", "after")
    assert not Path("new").exists()


def test_a_name_of_the_most_bytes_can_be_written() -> None:
    name = "\U0001f600" * 63
    write_whole(name, "text")
    assert Path(name).read_text() == "text"


KILLED = """
import os, signal, sys
from normscope.results.atomic_write import write_with
def write(path):
    path.write_text("half")
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.readline()
write_with("out", write)
"""


def test_what_a_killed_run_leaves_is_removed_and_what_another_writes_is_not() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run([*command, "kill"], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(Path().glob(".out.*.part"))) == 1
    with subprocess.Popen(
        [*command, "wait"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        require_writable("out")
        require_writable("other")
        write_whole("out", "whole")
        assert len(list(Path().glob(".out.*.part"))) == 1
        other.communicate("\n")
    assert (other.returncode, Path("out").read_text()) == (0, "half")
    assert not [name for name in left_in(Path()) if name.endswith(".part")]
