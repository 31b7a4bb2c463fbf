"""Checkpoints: moments and position saved periodically, so that a run resumes after a crash."""

import dataclasses
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

from normscope._version import __version__
from normscope.capture.state import WatcherState
from normscope.capture.watcher import Watcher
from normscope.data.corpus_position import Position
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted
from normscope.results.json_codec import from_plain, to_plain
from normscope.statistics.digests import KEY, digest_of, signed
from normscope.statistics.safetensors_file import save_tensors

_CHECKPOINT_SCHEMA = "normscope.checkpoint/1"
_LOGGER = logging.getLogger("normscope")


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
                was, now = (quoted(None if value == "None" else value) for value in (old, new))
                raise UsageError(
                    f"the checkpoint {path} is of {name} {was}; expected {now}, as now; "
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
                "schema": _CHECKPOINT_SCHEMA,
                "normscope": __version__,
                "state": json.dumps(to_plain(saved), allow_nan=False),
            }
            tensors = saved.watcher.tensors
            try:
                save_tensors(tensors, self.checkpoint.path, signed(tensors, header))
            except ReportError as error:
                if not self.checkpoint.exists():
                    raise
                _LOGGER.warning("warning: %s; the run goes on, its last checkpoint stays", error)
            self._last = time.monotonic()


def _read(path: str | os.PathLike[str]) -> Saved:
    with _whole(path):
        with safe_open(Path(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("schema") != _CHECKPOINT_SCHEMA:
                raise ReportError(f"schema is {printable(repr(header.get('schema'))[:200])}")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get(KEY) != digest_of(tensors, header):
            raise ReportError("it was changed after it was written")
        saved = from_plain(Saved, json.loads(header["state"]), "state")
        _check_position(saved.position)
        return dataclasses.replace(saved, watcher=dataclasses.replace(saved.watcher, tensors=tensors))


def _check_position(position: Position) -> None:
    """Raise ReportError for a place in a corpus where no run can be."""
    numbers = [value for value in vars(position).values() if isinstance(value, int)]
    pending = position.pending
    known = len(set(pending)) == len(pending) <= position.texts and all(
        0 <= place < position.read for place in pending
    )
    if min(numbers) < 0 or not known or position.texts + position.skipped != position.read:
        raise ReportError("its position is none in a corpus")


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
    """Return what all weights, and all else that is stored with them, are known by."""
    stored = model.state_dict()
    return digest_of({name: values for name, values in stored.items() if isinstance(values, Tensor)}, {})


def config_digest(config: Any) -> str | None:
    """Return what a configuration is known by, wherever it was read from; None without one."""
    if not hasattr(config, "to_dict"):
        return None
    known = {name: value for name, value in config.to_dict().items() if name[:1] != "_"}
    known.pop("transformers_version", None)
    return digest_of({}, {"config": json.dumps(known, sort_keys=True, default=str)})


def tokenizer_digest(tokenizer: Any) -> str:
    """Return what a tokenizer is known by: its vocabulary, how it splits texts, and its switches."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {}
    # What calls leave behind is no part of it.
    rules = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    switches = {
        name: value
        for name, value in getattr(tokenizer, "init_kwargs", {}).items()
        if isinstance(value, bool | int)
    }
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    special = getattr(tokenizer, "special_tokens_map", {})
    known = [type(tokenizer).__name__, rules, switches, vocabulary, special]
    return digest_of({}, {"tokenizer": json.dumps(known, sort_keys=True, default=str)})
