"""Runs of the command that are killed, interrupted, out of space, or shared by several processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.data.test_batching import WORDS, encoder
from tests.support import models
from tests.support.preloaded import Run, finish
from tests.support.reports_alike import OWN, furthest

TEXTS = [" ".join(([*WORDS[5:-1], "a"] * 2)[i * 7 % 13 :][: 1 + i * 5 % 11]) for i in range(96)]
TEXTS[4:4] = ["", " "]
INSPECT = ("inspect", "model", "-f", "corpus.txt", "-b", "2")
SAVING = (*INSPECT, "--checkpoint", "run.ckpt", "--checkpoint-every", "0")


@pytest.fixture(scope="module")
def commands(preloaded_commands: Path) -> Path:
    return preloaded_commands


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model in float64 and a corpus: the batching changes no number."""
    folder = tmp_path_factory.mktemp("home")
    models.bert(pad_token_id=0).to(torch.float64).save_pretrained(folder / "model")
    encoder().save_pretrained(folder / "model")
    (folder / "corpus.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return folder


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Path:
    for name in ("model", "corpus.txt"):
        (tmp_path / name).symlink_to(home / name)
    return tmp_path


@pytest.fixture(scope="module")
def whole(commands: Path, home: Path) -> dict[str, Any]:
    """The result of a run without interruption."""
    code, run = finish(commands, home, *INSPECT, "--json", "--moments", "whole.part")
    assert (code, run.err) == (0, "")
    result: dict[str, Any] = json.loads(run.out)
    return result


def until(run: Run, ready: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, run.err
        time.sleep(0.005)


# Killed


def killed_and_resumed(
    commands: Path, place: Path, whole: dict[str, Any], kills: int, longest: float
) -> None:
    chance = random.Random(kills)
    done = ends = 0
    while done < kills or ends == 0:
        run = Run(commands, place, *SAVING, "--resume", "--json", "-o", "out.json")
        if done < kills:
            time.sleep(chance.uniform(0.0, longest))
            run.send(signal.SIGKILL)
        code = run.wait()
        done += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL), run.err
        if code == 0:
            ends += 1
            assert furthest(whole, json.loads((place / "out.json").read_text())) < 1e-12
            assert not (place / "run.ckpt").exists()
            (place / "out.json").unlink()
    assert done == kills


def test_two_kills(commands: Path, place: Path, whole: dict[str, Any]) -> None:
    run = Run(commands, place, *SAVING, "--json", "-o", "out.json")
    until(run, (place / "run.ckpt").exists)
    run.send(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    killed_and_resumed(commands, place, whole, 1, 0.5)


@pytest.mark.slow
def test_many_kills(commands: Path, place: Path, whole: dict[str, Any]) -> None:
    begun = time.monotonic()
    finish(commands, place, *SAVING, "--json", "-o", "out.json")
    killed_and_resumed(commands, place, whole, 20, 0.7 * (time.monotonic() - begun))


# Interrupted

ENDS = [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("number", "expected"), ENDS)
def test_the_first_signal_ends_a_run_in_order(
    commands: Path, place: Path, whole: dict[str, Any], number: int, expected: int
) -> None:
    run = Run(commands, place, *SAVING, "--json", "-o", "out.json", "--moments", "part")
    until(run, (place / "run.ckpt").exists)
    run.send(number)
    assert run.wait() == expected
    first, second = run.err.splitlines()
    assert first == "interrupted: this batch is finished first; once more ends it at once"
    assert second.startswith("warning: the run was interrupted")
    part = json.loads((place / "out.json").read_text())
    assert 0 < part["run"]["texts"] < len(TEXTS) - 2
    assert part["run"]["texts"] == 2 * part["run"]["batches"]
    assert (place / "part").exists()
    code, run = finish(commands, place, *SAVING[:-2], "--resume", "--json")
    assert (code, run.err) == (0, "")
    assert furthest(whole, json.loads(run.out)) < 1e-12


@pytest.mark.parametrize(("number", "expected"), ENDS)
def test_the_second_signal_ends_it_at_once(commands: Path, place: Path, number: int, expected: int) -> None:
    # A batch so large that it is still running.
    (place / "long.txt").write_text("\n".join(["alpha beta gamma delta " * 6] * 4000))
    run = Run(
        commands, place, "inspect", "model", "-f", "long.txt", "-b", "1000", "--json", "-o", "out.json",
        "--checkpoint", "run.ckpt", "--checkpoint-every", "0",
    )  # fmt: skip
    until(run, (place / "run.ckpt").exists)
    run.send(number)
    until(run, lambda: run.err)
    run.send(number)
    assert run.wait() == expected
    assert run.err.splitlines()[1:] == ["interrupted"]
    assert not (place / "out.json").exists()


def test_ctrl_c_while_texts_are_waited_for(commands: Path, place: Path) -> None:
    """A pipe that sends no more texts: the report covers the earlier ones."""
    os.mkfifo(place / "pipe")
    pipe = os.open(place / "pipe", os.O_RDWR)
    os.write(pipe, ("alpha beta\n" * 70).encode())
    run = Run(commands, place, "inspect", "model", "-f", "pipe", "-b", "1", *SAVING[6:], "--json")
    until(run, lambda: saved_texts(place / "run.ckpt") == 64)
    run.send(signal.SIGINT)
    assert run.wait() == 130
    os.close(pipe)
    assert json.loads(run.out)["run"]["texts"] == 64


def saved_texts(path: Path) -> int:
    """The number of texts in a checkpoint."""
    if not path.exists():
        return 0
    with safe_open(path, framework="numpy") as file:
        return int(json.loads(file.metadata()["state"])["watcher"]["counts"]["samples"])


# Refused


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("--checkpoint run.ckpt", 2, "there is already a checkpoint at 'run.ckpt'"),
        ("--resume", 2, "--resume was given without --checkpoint"),
        ("--checkpoint - --resume", 2, "--checkpoint is '-'; expected a file's name"),
        ("--checkpoint no/run.ckpt", 1, "cannot write 'no/run.ckpt': there is no folder"),
        ("--checkpoint a --checkpoint-every -1", 2, "--checkpoint-every is '-1'; expected 0 or more"),
        ("--checkpoint run.ckpt --resume", 1, "'run.ckpt' is not a whole checkpoint"),
        ("--shard 3/2", 2, "shard is 3/2; expected I/N with I from 1 to N"),
        ("--shard x", 2, "shard is 'x'; expected I/N"),
        ("--device cpu --device-map auto", 2, "device 'cpu' and device map 'auto' were both given"),
    ],
)
def test_what_is_refused(commands: Path, place: Path, options: str, code: int, said: str) -> None:
    (place / "run.ckpt").write_text("not ours")
    ended, run = finish(commands, place, *INSPECT, *options.split())
    (line,) = run.err.splitlines()
    assert (ended, line[: 7 + len(said)]) == (code, f"error: {said}")
    assert (place / "run.ckpt").read_text() == "not ours"


def test_a_resumed_run_without_a_checkpoint_begins_anew(commands: Path, place: Path) -> None:
    code, run = finish(commands, place, *SAVING, "--resume", "--limit", "4")
    assert (code, run.err) == (0, "no checkpoint at 'run.ckpt' yet: the run starts from the beginning\n")


@pytest.mark.slow
def test_a_full_disk_is_a_warning_and_the_run_goes_on(
    commands: Path, place: Path, whole: dict[str, Any]
) -> None:
    run = Run(commands, place, *SAVING)
    until(run, (place / "run.ckpt").exists)
    run.send(signal.SIGKILL)
    run.wait()
    before = (place / "run.ckpt").read_bytes()
    command = [sys.executable, "-m", "normscope", *SAVING, "--resume", "--json"]
    full = ["bash", "-c", f'ulimit -f {len(before) // 2 // 1024}; exec "$@"', "bash", *command]
    done = subprocess.run(full, check=False, cwd=place, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr[:41]) == (0, "warning: cannot write 'run.ckpt': File to")
    assert furthest(whole, json.loads(done.stdout)) < 1e-12
    assert not [path for path in place.iterdir() if path.suffix == ".part"]


# Shared


@pytest.mark.slow
def test_shards_and_merge(commands: Path, place: Path, whole: dict[str, Any]) -> None:
    parts = [f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        assert finish(commands, place, *INSPECT, "--shard", f"{i}/3", "--moments", part, "-q")[0] == 0
    code, run = finish(commands, place, "merge", *parts, "--json")
    assert code == 0
    assert furthest(whole, json.loads(run.out), OWN) < 1e-9


def environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **more}


def torchrun(place: Path, ranks: int, *arguments: str, program: str = "") -> "subprocess.Popen[str]":
    """Start ranks on this machine that run the command, or a `program` that ends in it."""
    (place / "program.py").write_text(f"{program}\nfrom normscope.cli.start import main\nmain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.Popen(
        [*command, "program.py", *arguments],
        cwd=place,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, list[str]]:
    """Return its exit code, its output, and our own lines on standard error."""
    out, err = process.communicate(timeout=120)
    print(err)  # shown where a test fails
    ours = [line for line in err.splitlines() if line.startswith(("error:", "warning:", "interrupted"))]
    return process.returncode, out, ours


def test_ranks_share_a_corpus(commands: Path, place: Path, whole: dict[str, Any]) -> None:
    """Each rank is told its number as torchrun tells it; the tests below start torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    runs = []
    for rank in ("0", "1"):
        (place / rank).mkdir()
        for name in ("model", "corpus.txt"):
            (place / rank / name).symlink_to(place / name)
        arguments = (*INSPECT, "--json", "--moments", "part")
        runs.append(Run(commands, place / rank, *arguments, **told, RANK=rank, LOCAL_RANK=rank))
    assert [run.wait() for run in runs] == [0, 0], runs[0].err + runs[1].err
    assert furthest(whole, json.loads(runs[0].out), OWN) < 1e-9
    assert runs[1].out == ""
    assert [(place / rank / "part").exists() for rank in ("0", "1")] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3], ids=["two", "uneven"])
def test_torchrun_shares_a_corpus(place: Path, whole: dict[str, Any], ranks: int) -> None:
    code, out, ours = ended(torchrun(place, ranks, *INSPECT, "--json", "--moments", "part"))
    assert (code, ours) == (0, [])
    assert furthest(whole, json.loads(out), OWN) < 1e-9
    assert (place / "part").exists()


@pytest.mark.slow
def test_a_rank_without_texts(commands: Path, place: Path) -> None:
    (place / "two.txt").write_text("alpha beta\n\ngamma\n")
    arguments = ("inspect", "model", "-f", "two.txt", "--json")
    code, out, ours = ended(torchrun(place, 3, *arguments))
    assert (code, ours) == (0, ["warning: shard 3/3 holds no text: there are fewer texts than shards"])
    alone = json.loads(finish(commands, place, *arguments)[1].out)
    assert furthest(alone, json.loads(out), (*OWN, "warnings")) < 1e-9


FAILS = """
import os
from normscope.engine.session import Session
from normscope.errors import RunError
real = Session.measure
def measure(*given, **named):
    if os.environ["RANK"] == "{rank}":
        {what}
    return real(*given, **named)
Session.measure = measure
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_all_with_one_line(place: Path, rank: int) -> None:
    program = FAILS.format(rank=rank, what='raise RunError("it broke; expected not; mend it")')
    code, out, ours = ended(torchrun(place, 3, *INSPECT, "-o", "out.json", program=program))
    assert (code, out, ours) == (1, "", [f"error: rank {rank} of 3: it broke; expected not; mend it"])
    assert not (place / "out.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_leaves_no_hang(place: Path, rank: int) -> None:
    program = FAILS.format(rank=rank, what="os.kill(os.getpid(), 9)")
    code, _, ours = ended(torchrun(place, 2, *INSPECT, "-o", "out.json", program=program))
    assert code == 1
    assert len(ours) <= 1
    assert not (place / "out.json").exists()


@pytest.mark.slow
def test_a_result_that_cannot_be_written_costs_no_rank_its_work(place: Path, whole: dict[str, Any]) -> None:
    """Rank 1 ends much earlier: its checkpoint stays until rank 0 has written the common result."""
    program = "from normscope.cli.output import Output\nfrom normscope.errors import ReportError\n"
    program += "def write(*given):\n    raise ReportError('the disk is full')\nOutput.write = write"
    code, _, ours = ended(torchrun(place, 2, *SAVING, "--json", program=program))
    assert (code, ours) == (1, ["error: rank 0 of 2: the disk is full"])
    assert all((place / f"run.ckpt.{i}-of-2").exists() for i in (1, 2))
    code, out, ours = ended(torchrun(place, 2, *SAVING, "--resume", "--json"))
    assert (code, ours) == (0, [])
    assert furthest(whole, json.loads(out), OWN) < 1e-9
    assert not list(place.glob("run.ckpt*"))


@pytest.mark.slow
def test_an_error_of_all_ranks_is_told_once(place: Path) -> None:
    code, _, ours = ended(torchrun(place, 3, "inspect", "nowhere/", "-f", "corpus.txt"))
    assert (code, len(ours)) == (1, 1)


@pytest.mark.slow
def test_ranks_do_not_share_a_pipe(place: Path) -> None:
    code, _, ours = ended(torchrun(place, 2, "inspect", "model"))
    assert (code, len(ours)) == (1, 1)
    assert "ranks would share standard input" in ours[0]


@pytest.mark.slow
def test_ranks_that_are_killed_go_on(place: Path, whole: dict[str, Any]) -> None:
    pause = "import time\nfrom normscope.engine.checkpoint import Saver\nreal = Saver.save\n"
    pause += "def save(*given, **named):\n    real(*given, **named)\n    time.sleep(0.1)\nSaver.save = save"
    process = torchrun(place, 2, *SAVING, "--json", program=pause)
    names = [place / f"run.ckpt.{i}-of-2" for i in (1, 2)]
    end = time.monotonic() + 60
    while not all(name.exists() for name in names):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, _ = ended(process)
    assert code != 0
    assert all(name.exists() for name in names)
    code, out, ours = ended(torchrun(place, 2, *SAVING, "--resume", "--json"))
    assert (code, ours) == (0, [])
    assert furthest(whole, json.loads(out), OWN) < 1e-9
    assert not any(name.exists() for name in names)
