"""Run options of `inspect`: checkpoint, shard, and ranks that share the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.cli.interruption import RESULT, Asked
from normscope.cli.output import Output, say
from normscope.cli.torchrun import gathered, watching
from normscope.errors import UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from normscope.analyses.distributed import Ranks
    from normscope.data.shards import Shard
    from normscope.engine.checkpoint import Checkpoint
    from normscope.engine.progress import Progress
    from normscope.results.inspect import Report


@dataclass(frozen=True)
class Resuming:
    """The options of a checkpoint."""

    path: str | None
    every: float
    resume: bool

    def check(self) -> None:
        """Raise UsageError or ReportError for what cannot be: before the work, not after."""
        if self.path is None and self.resume:
            raise UsageError("--resume was given without --checkpoint; expected its PATH; name it")
        Output(self.path).check_file("--checkpoint")

    def paths(self, ranks: "Ranks | None") -> list[str]:
        """Return the checkpoint paths: one, or one for each rank."""
        if self.path is None:
            return []
        if ranks is None:
            return [self.path]
        return [f"{self.path}.{rank}-of-{ranks.count}" for rank in range(1, ranks.count + 1)]

    def checkpoint(self, ranks: "Ranks | None", facts: dict[str, Any], *, quiet: bool) -> "Checkpoint | None":
        """Return the checkpoint that was asked for."""
        if self.path is None:
            return None
        from normscope.engine.checkpoint import Checkpoint

        path = self.paths(ranks)[0 if ranks is None else ranks.rank]
        checkpoint = Checkpoint(path, self.every, self.resume, facts)
        if self.resume and not checkpoint.exists() and not quiet:
            say(f"no checkpoint at {quoted(path)} yet: the run begins anew")
        return checkpoint

    def done(self, checkpoint: "Checkpoint | None", asked: Asked, ranks: "Ranks | None") -> None:
        """End a run whose result is written: one that was interrupted keeps its checkpoint."""
        if checkpoint is not None and not asked.exit_code:
            if ranks is not None:
                ranks.wait_for_all()
            checkpoint.remove()
        asked.end()


def part_of(ranks: "Ranks | None", shard: str | None) -> "Shard | None":
    """Return the part of the corpus that was asked for, or that is the rank's."""
    if ranks is not None and shard is not None:
        raise UsageError(
            f"--shard {shard} was given to {ranks.count} ranks, which share by themselves; drop it"
        )
    from normscope.data.shards import Shard

    return ranks.shard if ranks is not None else None if shard is None else Shard.read(shard)


def measured(
    run: "Callable[..., Report]",
    ranks: "Ranks | None",
    progress: "Callable[[Progress], None]",
    asked: Asked,
) -> "Report | None":
    """Run to the end or to a signal; return the report of all ranks, None where another rank has it."""
    report = run(stop=asked.stop, progress=watching(ranks, progress))
    asked.first = RESULT
    return gathered(ranks, report, asked)
