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
from torch import Tensor

from normscope._version import __version__
from normscope.capture.recorder import Recorder
from normscope.capture.state import RecorderState
from normscope.capture.watched_model import describe
from normscope.data.batching import Batching
from normscope.data.corpus import Position
from normscope.engine.provenance import stored_tensors
from normscope.errors import ReportError, UsageError
from normscope.escaping import printable, quoted
from normscope.models.loading import Loaded
from normscope.results.json_codec import from_plain, to_plain
from normscope.statistics.digests import KEY, digest_of, signed
from normscope.statistics.safetensors_file import save_tensors

_CHECKPOINT_SCHEMA = "normscope.checkpoint/1"
_LOGGER = logging.getLogger("normscope")


@dataclass(frozen=True)
class Checkpoint:
    """The file in which a run saves its progress, every so many seconds (0: after every batch).

    To `resume`, model, weights, corpus and options must be those of the checkpoint; if the file does not
    exist, the run begins at the start. `facts` are further values that must be the same, under the names
    that messages use. Raises UsageError if the file exists and the run does not resume, and for an invalid
    time. The caller of `inspect` removes the file when the result is safe.
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
                "add --resume to go on from it, or remove it to start over"
            )

    def exists(self) -> bool:
        """Whether there is a file at the path."""
        return Path(self.path).exists()

    def remove(self) -> None:
        """Remove the file, if there is one."""
        Path(self.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint: the `facts` it depends on, its position, and the state of the recorder."""

    facts: Mapping[str, str]
    position: Position
    seconds: float
    watcher: RecorderState


class Saver:
    """Saves the state of a run periodically; without a checkpoint it does nothing."""

    def __init__(self, checkpoint: Checkpoint | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self.checkpoint = checkpoint
        own = {} if checkpoint is None else checkpoint.facts
        self._facts = {name: str(value) for name, value in {**(facts or {}), **own}.items()}
        self._last = time.monotonic()

    def resume(self, recorder: Recorder) -> Saved | None:
        """Restore the recorder from the checkpoint and return it; UsageError if another run has made it."""
        if self.checkpoint is None or not (self.checkpoint.resume and self.checkpoint.exists()):
            return None
        saved, path = _read(self.checkpoint.path), quoted(self.checkpoint.path)
        for name in dict.fromkeys((*self._facts, *saved.facts)):
            old, new = saved.facts.get(name), self._facts.get(name)
            if old != new:
                was, now = (quoted(None if value == "None" else value) for value in (old, new))
                raise UsageError(
                    f"the checkpoint {path} is of {name} {was}; expected {now}, as now; "
                    "run it with what it was made with, or remove it and start over"
                )
        with _whole(self.checkpoint.path):
            saved.watcher.give(recorder)
        return saved

    def save(self, recorder: Recorder, position: Position, seconds: float, *, now: bool = False) -> None:
        """Save the state between two batches, if enough time has passed or `now` is true.

        If that fails, the last checkpoint stays, a warning is logged, and the next time tries again.
        Raises ReportError if there is no checkpoint yet.
        """
        if self.checkpoint is None:
            return
        if now or time.monotonic() - self._last >= self.checkpoint.every:
            saved = Saved(self._facts, position, seconds, RecorderState.of(recorder))
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
    """Raise ReportError for a position that no run can have."""
    numbers = [value for value in vars(position).values() if isinstance(value, int)]
    pending = position.pending
    possible = len(set(pending)) == len(pending) <= position.texts and all(
        0 <= index < position.read for index in pending
    )
    if min(numbers) < 0 or not possible or position.texts + position.skipped != position.read:
        raise ReportError("its position is none in a corpus")


@contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any error of a file that is not a whole checkpoint into one line."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError, ReportError) as error:
        why = f" ({printable(str(error))})" if isinstance(error, ReportError) else ""
        raise ReportError(
            f"{quoted(path)} is not a whole checkpoint{why}; expected one that inspect --checkpoint wrote; "
            "name another file, or remove it and start over"
        ) from error


def facts(loaded: Loaded, batching: Batching, choices: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a checkpoint depends on, under the names that messages use.

    The batch size is not part of it: a run that lacked memory may resume with smaller batches.
    """
    model, config = describe(loaded.model, loaded.id), getattr(loaded.model, "config", None)
    choices = {**{name.replace("_", " "): value for name, value in vars(batching).items()}, **choices}
    del choices["batch size"]
    return {
        "model": model.id,
        "revision": loaded.revision,
        "commit": loaded.commit,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "parameters": model.parameters,
        "configuration": _config_digest(config),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": digest_of(stored_tensors(loaded.model), {}),
        "tokenizer": _tokenizer_digest(loaded.tokenizer),
        "normscope": __version__,
        **choices,
    }


def _config_digest(config: Any) -> str | None:
    """Return a digest of a configuration that does not depend on its path; None without one."""
    if not hasattr(config, "to_dict"):
        return None
    values = {name: value for name, value in config.to_dict().items() if name[:1] != "_"}
    values.pop("transformers_version", None)
    return digest_of({}, {"config": json.dumps(values, sort_keys=True, default=str)})


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a tokenizer: its vocabulary, its rules for splitting texts, and its switches."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {}
    # Calls of the tokenizer change these two.
    rules = {name: rule for name, rule in rules.items() if name not in ("padding", "truncation")}
    switches = {
        name: value
        for name, value in getattr(tokenizer, "init_kwargs", {}).items()
        if isinstance(value, bool | int)
    }
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    special = getattr(tokenizer, "special_tokens_map", {})
    parts = [type(tokenizer).__name__, rules, switches, vocabulary, special]
    return digest_of({}, {"tokenizer": json.dumps(parts, sort_keys=True, default=str)})
