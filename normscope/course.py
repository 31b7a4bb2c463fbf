"""What goes with a run: how far it is, where that is saved, what ends it early, and what is kept beside."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from normscope import __version__
from normscope.batches import Batching
from normscope.bins import TablePlan
from normscope.checkpoint import Saver, config_digest, tokenizer_digest, weights_digest
from normscope.corpus import Position
from normscope.errors import TextError
from normscope.kept import Kept
from normscope.loading import Loaded
from normscope.report import RunInfo
from normscope.shards import Shard
from normscope.stopping import Stop
from normscope.watched import describe
from normscope.watcher import Watcher

INTERRUPTED = "the run was interrupted: the numbers are of what it had seen until then"
LONG_FIRST = "the run was interrupted: the numbers are of what it had seen until then, long texts first"


@dataclass(frozen=True)
class Progress:
    """How far a run is: `stage` is "load", "plan", "run" or "analysis", which follows the last batch.

    `expected_texts` is a guess, None without one.
    `tables` are what is planned of the tables over positions, told once, at the stage "plan".
    """

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float
    tables: TablePlan | None = None


class Clock:
    """Tells a caller how far the run is."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._begun = progress, time.perf_counter()
        self.earlier = 0.0
        """The seconds of the run before it was resumed."""

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return self.earlier + time.perf_counter() - self._begun

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function, if there is one."""
        if self._progress:
            self._progress(Progress(stage, texts, tokens, expected, self.seconds()))

    def plan(self, tables: TablePlan) -> None:
        """Tell the caller's function, if there is one, what is planned of the tables."""
        if self._progress:
            self._progress(Progress("plan", 0, 0, None, self.seconds(), tables))


@dataclass(frozen=True)
class Course:
    """What goes with a run: what saves it, what ends it early, what keeps single texts, whose part it is."""

    saver: Saver = field(default_factory=Saver)
    stop: Stop = field(default_factory=Stop)
    kept: Kept | None = None
    shard: Shard | None = None

    def resumed(self, watcher: Watcher, clock: Clock) -> Position | None:
        """Let the watcher go on from the checkpoint, if there is one, and return how far that is."""
        saved = self.saver.resume(watcher)
        if saved is None:
            return None
        clock.earlier = saved.seconds
        return saved.position

    def interrupted(self, watcher: Watcher, run: RunInfo, position: Position, clock: Clock) -> RunInfo:
        """Save how far the run is, and return the account of that; KeyboardInterrupt before a first batch."""
        if not run.tokens:
            raise KeyboardInterrupt
        self.saver.save(watcher, position, clock.seconds(), now=True)
        return replace(
            run,
            texts=position.texts - len(position.pending),
            skipped_texts=position.skipped,
            truncated_texts=position.truncated - position.pending_truncated,
            repeated_texts=position.repeated - position.pending_repeated,
        )

    def without_text(self, run: RunInfo) -> list[str]:
        """Say that a shard holds no text; of a whole corpus without any it is a TextError."""
        if run.tokens:
            return []
        if self.shard is not None:
            return [f"shard {self.shard} holds no text: there are fewer texts than shards"]
        blank = f"{run.skipped_texts} blank"
        raise TextError(f"no text to measure ({blank}); expected at least one text with a word in it")


def facts(loaded: Loaded, batching: Batching, choices: dict[str, Any]) -> dict[str, Any]:
    """Return all that a checkpoint depends on, by the names that messages give it.

    How many texts are in a batch is not of it: a run that memory did not hold goes on with smaller ones.
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
        "configuration": config_digest(config),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": weights_digest(loaded.model),
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "normscope": __version__,
        **choices,
    }
