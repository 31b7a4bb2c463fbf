"""Shares one corpus among the processes of torchrun: each takes a shard, rank 0 writes the report."""

import os
import time
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

# All ranks must have come by then; afterwards only their silence counts.
MEETING = timedelta(minutes=10)
# A rank says so often that it lives, and is given up after so long a silence, in seconds.
PULSE, SILENCE = 5.0, 120.0
_LONG = timedelta(days=30)


class Ranks:
    """This process among `count`, from rank 0: a context manager that meets the others.

    Reports are gathered over gloo from main memory, where moments are copied to from any device.
    Raises RunError when the others do not come within ten minutes.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._left, self._pulse = Event(), Thread(target=self._live, daemon=True)
        self._looked = time.monotonic()

    @property
    def shard(self) -> Shard:
        """The part of the corpus that is this rank's."""
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
            self._group: Any = dist.new_group(backend="gloo", timeout=_LONG)
        except (RuntimeError, ValueError) as error:  # torch's own errors of its connections, too
            got = f"rank {self.rank} of {self.count} cannot meet the others ({_first_line(error)})"
            raise RunError(f"{got}; expected all of them to start together; see torchrun --help") from error
        self._pulse.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        # A thread that is inside the store when Python ends aborts the process.
        self._pulse.join(PULSE)
        if kind is None:
            dist.destroy_process_group()

    def _live(self) -> None:
        beat = 0
        while not self._left.wait(PULSE if beat else 0):
            beat += 1
            try:
                self._store.set(f"alive {self.rank}", str(beat))
            except RuntimeError:  # The store is gone, and with it the run.
                return

    def fails_first(self) -> bool:
        """Tell the others that this rank ends too early; whether it is the first of all to do so."""
        try:
            return self._store.add("failures", 1) == 1
        except RuntimeError:
            return self.rank == 0

    def look(self) -> None:
        """Raise RunError when another rank has failed; it asks once in a second at most."""
        if time.monotonic() - self._looked >= 1:
            self._looked = time.monotonic()
            if self._said("failures"):
                raise RunError("another rank has failed; see its message")

    def _said(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:
            raise RunError("the other ranks are gone; expected them to go on; see their messages") from error

    def merged(self, report: Report) -> Report | None:
        """Return the report of all ranks at rank 0, None at the others; each report carries its moments."""
        try:
            with TemporaryDirectory(prefix="normscope-") as folder:
                if self.rank:
                    self._send(report, Path(folder) / "part")
                    return None
                parts = (self._received(rank, Path(folder) / f"rank{rank}") for rank in range(1, self.count))
                return merge([report, *parts])
        except OSError as error:
            got = f"cannot keep a part in {quoted(gettempdir())} for the merge ({reason(error)})"
            raise RunError(
                f"{got}; expected room for it; free some, or set TMPDIR to another folder"
            ) from error

    def wait_for_all(self) -> None:
        """Wait until every rank has come here, rank 0 with the result written; RunError where one is gone."""
        try:
            dist.barrier(self._group)
        except RuntimeError as error:
            raise RunError(
                f"another rank is gone ({_first_line(error)}); expected it to end; see its message"
            ) from error

    def _send(self, report: Report, path: Path) -> None:
        write_moments(report, path)
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        self._store.set(f"size {self.rank}", str(len(data)))
        try:
            dist.send(data, 0, group=self._group)
        except RuntimeError as error:
            raise RunError(
                f"rank 0 is gone ({_first_line(error)}); expected its report; see its message"
            ) from error

    def _received(self, rank: int, path: Path) -> Path:
        self._wait(rank)
        data = torch.empty(int(self._store.get(f"size {rank}")), dtype=torch.uint8)
        try:
            dist.recv(data, rank, group=self._group)
        except RuntimeError as error:
            raise RunError(
                f"rank {rank} is gone ({_first_line(error)}); expected its part; run it again"
            ) from error
        path.write_bytes(data.numpy().tobytes())
        return path

    def _wait(self, rank: int) -> None:
        """Wait for another rank's part, however long it takes while the rank says that it lives."""
        beat, heard = b"", time.monotonic()
        while not self._said(f"size {rank}"):
            self.look()
            new = self._store.get(f"alive {rank}") if self._said(f"alive {rank}") else b""
            if new != beat:
                beat, heard = new, time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise RunError(f"rank {rank} has fallen silent; expected its part; see what ended it")
            time.sleep(0.05)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
