"""Shares one corpus among the processes of torchrun: each runs a shard, rank 0 writes the report."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import Event, Thread
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from normscope.analyses.merge import merge
from normscope.data.shards import Shard
from normscope.errors import RunError
from normscope.escaping import quoted, reason
from normscope.results.inspect import Report
from normscope.statistics.moments_file import write_moments

# All ranks must start within this time. Later ones have no time limit: a shard may take days.
MEETING = timedelta(minutes=10)
_UNLIMITED = timedelta(days=30)
# Seconds between two signs of life of a rank, and without one until the rank counts as lost.
PULSE, SILENCE = 5.0, 120.0


class Ranks:
    """This process as one of `count` ranks: a context manager that meets the others.

    Reports are gathered with gloo on the CPU; moments are copied there from any device.
    Raises RunError when the others do not start within ten minutes.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._left, self._pulse = Event(), Thread(target=self._send_pulse, daemon=True)
        self._checked = time.monotonic()

    @property
    def shard(self) -> Shard:
        """This rank's part of the corpus."""
        return Shard(self.rank + 1, self.count)

    def __enter__(self) -> "Ranks":
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        try:
            store, _, _ = next(rendezvous("env://", self.rank, self.count, timeout=MEETING))
            self._store = PrefixStore("normscope", store)
            group = PrefixStore("gloo", store)
            dist.init_process_group(
                "gloo", store=group, rank=self.rank, world_size=self.count, timeout=MEETING
            )
            self._group: Any = dist.new_group(backend="gloo", timeout=_UNLIMITED)
        except (RuntimeError, ValueError) as error:  # torch's connection errors are RuntimeErrors
            got = f"rank {self.rank} of {self.count} cannot meet the others ({_first_line(error)})"
            raise RunError(f"{got}; expected all of them to start together; see torchrun --help") from error
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        # If Python ends while a thread is inside the store, the process aborts.
        self._pulse.join(PULSE)
        if kind is None:
            dist.destroy_process_group()

    def _send_pulse(self) -> None:
        beat = 0
        while not self._left.wait(PULSE if beat else 0):
            beat += 1
            try:
                self._store.set(f"alive {self.rank}", str(beat))
            except RuntimeError:  # Without the store the run is over.
                return

    def fails_first(self) -> bool:
        """Tell the others that this rank failed; return whether it is the first one to fail."""
        try:
            return self._store.add("failures", 1) == 1
        except RuntimeError:
            return self.rank == 0

    def check_others(self) -> None:
        """Raise RunError when another rank has failed; asks the store at most once a second."""
        if time.monotonic() - self._checked >= 1:
            self._checked = time.monotonic()
            if self._has("failures"):
                raise RunError("another rank has failed; see its message")

    def _has(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:
            raise RunError("the other ranks are gone; expected them to go on; see their messages") from error

    def gather(self, report: Report) -> Report | None:
        """Return the merged report of all ranks at rank 0, None at the others; reports carry moments."""
        try:
            with TemporaryDirectory(prefix="normscope-") as folder:
                if self.rank:
                    self._send(report, Path(folder) / "part")
                    return None
                parts = (self._receive(rank, Path(folder) / f"rank{rank}") for rank in range(1, self.count))
                return merge([report, *parts])
        except OSError as error:
            got = f"cannot keep a part in {quoted(gettempdir())} for the merge ({reason(error)})"
            raise RunError(
                f"{got}; expected room for it; free some, or set TMPDIR to another folder"
            ) from error

    def wait_for_all(self) -> None:
        """Wait until every rank is here, so that rank 0 has written the result; RunError if one is gone."""
        with _lost("another rank", "expected it to end; see its message"):
            dist.barrier(self._group)

    def _send(self, report: Report, path: Path) -> None:
        write_moments(report, path)
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        self._store.set(f"size {self.rank}", str(len(data)))
        with _lost("rank 0", "expected its report; see its message"):
            dist.send(data, 0, group=self._group)

    def _receive(self, rank: int, path: Path) -> Path:
        self._wait(rank)
        data = torch.empty(int(self._store.get(f"size {rank}")), dtype=torch.uint8)
        with _lost(f"rank {rank}", "expected its part; run it again"):
            dist.recv(data, rank, group=self._group)
        path.write_bytes(data.numpy().tobytes())
        return path

    def _wait(self, rank: int) -> None:
        """Wait for another rank's part, without a limit as long as the rank sends signs of life."""
        beat, heard = b"", time.monotonic()
        while not self._has(f"size {rank}"):
            self.check_others()
            new = self._store.get(f"alive {rank}") if self._has(f"alive {rank}") else b""
            if new != beat:
                beat, heard = new, time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise RunError(f"rank {rank} has fallen silent; expected its part; see what ended it")
            time.sleep(0.05)


@contextmanager
def _lost(rank: str, advice: str) -> Iterator[None]:
    """Turn an error of a connection into a RunError about the rank at its other end."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(f"{rank} is gone ({_first_line(error)}); {advice}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
