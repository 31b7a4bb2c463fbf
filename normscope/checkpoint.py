"""A run that can go on after a crash: moments and position are saved now and then, and taken up again."""

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from normscope import __version__
from normscope.corpus import Position
from normscope.errors import ReportError, UsageError
from normscope.plain import from_plain, to_plain
from normscope.printable import printable, quoted
from normscope.run_state import WatcherState, read_state
from normscope.saving import save_tensors
from normscope.watcher import Watcher

CHECKPOINT_SCHEMA = "normscope.checkpoint/1"
# So many elements of a matrix tell it from another.
FEW = 64
LOGGER = logging.getLogger("normscope")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run saves how far it is, every so many seconds (0: after every batch), and whether it resumes.

    To `resume`, model, weights, corpus and options must be those of the checkpoint; where there is none,
    the run begins anew. `facts` are more that must be the same, by the names that messages give them.
    A run that does not resume refuses a `path` where something is. Raises UsageError for that and for
    a time that is none. Who calls `inspect` removes the file when the result is safe.
    """

    path: str | os.PathLike[str]
    every: float = 60.0
    resume: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.every) and self.every >= 0):
            raise UsageError(f"checkpoint every is {self.every}; expected seconds, 0 or more; change it")
        if not self.resume and self.exists():
            raise UsageError(
                f"there is already a checkpoint at {quoted(self.path)}; expected none without --resume; "
                "add --resume to go on from it, or remove it to begin anew"
            )

    def exists(self) -> bool:
        """Whether something is there."""
        return Path(self.path).exists()

    def remove(self) -> None:
        """Remove it, if it is there."""
        Path(self.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says: the `facts` it depends on, how far it is, and what was measured so far."""

    facts: Mapping[str, str]
    position: Position
    seconds: float
    watcher: WatcherState


class Saver:
    """Saves a run's state while it goes on; without a checkpoint it does nothing."""

    def __init__(self, checkpoint: Checkpoint | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self.checkpoint = checkpoint
        own = {} if checkpoint is None else checkpoint.facts
        self._facts = {name: str(value) for name, value in {**(facts or {}), **own}.items()}
        self._last = time.monotonic()

    def resume(self, watcher: Watcher) -> Saved | None:
        """Let the watcher go on from what there is and return that; UsageError where it is another run's."""
        if self.checkpoint is None or not (self.checkpoint.resume and self.checkpoint.exists()):
            return None
        saved, path = _read(self.checkpoint.path), quoted(self.checkpoint.path)
        for name in dict.fromkeys((*self._facts, *saved.facts)):
            old, new = saved.facts.get(name), self._facts.get(name)
            if old != new:
                raise UsageError(
                    f"the checkpoint {path} is of {name} {quoted(old)}; expected {quoted(new)}, as now; "
                    "run it with what it was made with, or remove it and begin anew"
                )
        with _whole(self.checkpoint.path):
            saved.watcher.give(watcher)
        return saved

    def save(self, watcher: Watcher, position: Position, seconds: float, *, now: bool = False) -> None:
        """Save the state between two batches, if it is time or has to be `now`.

        Where that fails, the last checkpoint stays, a warning is logged, and it is tried again the next
        time; ReportError where there is no checkpoint yet.
        """
        if self.checkpoint is None:
            return
        if now or time.monotonic() - self._last >= self.checkpoint.every:
            saved = Saved(self._facts, position, seconds, WatcherState.of(watcher))
            header = {
                "schema": CHECKPOINT_SCHEMA,
                "normscope": __version__,
                "state": json.dumps(to_plain(saved), allow_nan=False),
            }
            try:
                save_tensors(saved.watcher.tensors, self.checkpoint.path, header)
            except ReportError as error:
                if not self.checkpoint.exists():
                    raise
                LOGGER.warning("warning: %s; the run goes on, its last checkpoint stays", error)
            self._last = time.monotonic()


def _read(path: str | os.PathLike[str]) -> Saved:
    with _whole(path):
        with safe_open(Path(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("schema") != CHECKPOINT_SCHEMA:
                raise ReportError(f"schema is {printable(repr(header.get('schema'))[:200])}")
            plain = json.loads(header["state"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved = from_plain(Saved, plain, "state")
        return dataclasses.replace(saved, watcher=read_state(plain["watcher"], tensors))


@contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a file that is no whole checkpoint leads to into one line."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, ReportError) as error:
        why = f" ({printable(str(error))})" if isinstance(error, ReportError) else ""
        raise ReportError(
            f"{quoted(path)} is no whole checkpoint{why}; expected one that inspect --checkpoint wrote; "
            "name another file, or remove it and begin anew"
        ) from error


def weights_digest(model: nn.Module) -> str:
    """Return what the weights are known by: vectors in full, of each matrix a few elements."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if not parameter.is_meta:
            values = parameter.detach().reshape(-1)
            step = 1 if parameter.dim() < 2 else max(1, len(values) // FEW)
            digest.update(values[::step].cpu().double().numpy().tobytes())
    return digest.hexdigest()
