"""One rank at a time: waiting for others, giving them up, ending; test_long_runs has several at once."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import normscope
from normscope.analyses import distributed as ranks_module
from normscope.analyses.distributed import Ranks
from normscope.cli import torchrun as ranks_command
from normscope.cli.interruption import StopRequest
from normscope.cli.run_options import CheckpointOptions
from normscope.cli.torchrun import gather, join_ranks
from normscope.engine.checkpoint import Checkpoint
from normscope.errors import RunError, TextError, UsageError
from tests.data.test_batching import encoder
from tests.support import models, reports


class Store:
    """A store of messages between ranks in this process; `look` is called at every question."""

    def __init__(self, look: Callable[["Store"], None] = lambda store: None) -> None:
        self.said: dict[str, bytes] = {}
        self._look = look

    def check(self, keys: list[str]) -> bool:
        self._look(self)
        return all(key in self.said for key in keys)

    def get(self, key: str) -> bytes:
        return self.said[key]

    def set(self, key: str, value: str) -> None:
        self.said[key] = value.encode()

    def add(self, key: str, more: int) -> int:
        self.set(key, str(int(self.said.get(key, b"0")) + more))
        return int(self.said[key])


def among(store: Any, rank: int = 0) -> Ranks:
    ranks = Ranks(rank, 2)
    ranks._store = store
    return ranks


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """A group of one rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    with Ranks(0, 1) as ranks:
        yield ranks


def test_no_thread_is_left_behind(alone: Ranks) -> None:
    """A thread that is inside the store when Python ends would abort the process."""
    before = set(threading.enumerate())
    assert alone._pulse in before
    alone.__exit__(RunError, None, None)
    assert not alone._pulse.is_alive()


def test_a_rank_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "PULSE", 0.01)
    told = threading.Event()

    class Heard(Store):
        def set(self, key: str, value: str) -> None:
            super().set(key, value)
            if value == "3":
                told.set()

    ranks = among(Heard(), rank=1)
    ranks._pulse.start()
    assert told.wait(10)
    ranks._left.set()
    ranks._pulse.join(10)
    assert ranks._store.said.keys() == {"alive 1"}  # type: ignore[attr-defined]


def test_a_rank_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look(store: Store) -> None:
        asked.append(store)
        assert len(asked) < 1000, "it waits for ever"

    monkeypatch.setattr(ranks_module, "SILENCE", 0.1)
    store = Store(look)
    store.set("alive 1", "7")
    with pytest.raises(RunError, match="rank 1 has fallen silent; expected its part; see what ended it"):
        among(store)._wait(1)


def test_a_rank_that_lives_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is longer than for a silent rank: a beat comes with every question, the part after many."""
    now = [0.0]
    monkeypatch.setattr("normscope.analyses.distributed.time.monotonic", lambda: now[0])
    monkeypatch.setattr("normscope.analyses.distributed.time.sleep", lambda seconds: None)

    def look(store: Store) -> None:
        now[0] += 50.0
        store.set("alive 1", str(now[0]))
        if now[0] > 5000:
            store.set("size 1", "9")

    among(Store(look))._wait(1)
    assert now[0] > 5000


def test_a_failure_elsewhere_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "SILENCE", 1.0)
    monkeypatch.setattr("normscope.analyses.distributed.time.sleep", lambda seconds: None)
    store = Store()
    ranks = among(store)
    ranks._checked -= 2
    assert among(store, rank=1).fails_first()
    assert not ranks.fails_first()
    with pytest.raises(RunError, match="another rank has failed; see its message"):
        ranks._wait(1)


def test_a_store_that_is_gone_is_one_line() -> None:
    def gone(store: Store) -> None:
        raise RuntimeError("Connection reset by peer\nand a page of C++")

    ranks = among(Store(gone), rank=1)
    ranks._checked -= 2
    with pytest.raises(RunError, match=r"^the other ranks are gone; expected them to go on; see their mess"):
        ranks.check_others()


def test_no_room_for_the_parts_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = normscope.inspect(models.bert(), ["the cat"], tokenizer=encoder(), moments=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"cannot keep a part in '.*none' for the merge \(.*\); .* set TMPDIR"):
        among(Store()).gather(report)


@pytest.mark.parametrize("rank", [0, 1])
def test_shards_of_ranks(rank: int) -> None:
    assert str(Ranks(rank, 2).shard) == f"{rank + 1}/2"


def test_a_checkpoint_stays_until_rank_0_has_written(tmp_path: Path, alone: Ranks) -> None:
    resuming, saving = CheckpointOptions("c", 0.0, True), Checkpoint(tmp_path / "c", resume=True)
    (tmp_path / "c").touch()

    class Gone(Ranks):
        def wait_for_all(self) -> None:
            raise RunError("another rank is gone")

    with pytest.raises(RunError):
        resuming.finish(saving, StopRequest("this batch is finished first", quiet=True), Gone(1, 2))
    assert saving.exists()
    resuming.finish(saving, StopRequest("this batch is finished first", quiet=True), alone)
    assert not saving.exists()


def test_a_rank_that_is_gone_at_the_end_is_one_line(alone: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(group: Any) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]\nand a page of C++")

    monkeypatch.setattr("normscope.analyses.distributed.dist.barrier", gone)
    with pytest.raises(RunError, match=r"^another rank is gone \(Connection.*\]\); expected it to end; see"):
        alone.wait_for_all()


@pytest.mark.parametrize(("rank", "count"), [("2", "2"), ("", "0")])
def test_a_rank_that_cannot_be_waits_for_nobody(
    rank: str, count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    said = f"RANK is {rank or 0}; expected less than WORLD_SIZE, which is {count}; see torchrun --help"
    with pytest.raises(UsageError, match=said), join_ranks():
        pass


def test_waiting_for_others_says_how_to_be_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ranks_command, "PATIENCE", 0.05)
    monkeypatch.setattr(ranks_module, "MEETING", timedelta(seconds=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="cannot meet the others"), join_ranks():
        pass
    said = capsys.readouterr().err
    assert said.startswith("rank 0 waits at 127.0.0.1:")
    assert said.endswith("where there are none: unset WORLD_SIZE RANK\n")


def test_a_blank_corpus_is_an_error_of_ranks_too(alone: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    report = reports.minilm()
    blank = replace(report, run=replace(report.run, texts=0, tokens=0, skipped_texts=3))
    monkeypatch.setattr(alone, "gather", lambda one: one)
    with pytest.raises(TextError, match=r"no text to measure \(3 blank"):
        gather(alone, blank, StopRequest("this batch is finished first", quiet=True))
