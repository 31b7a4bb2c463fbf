"""Options of long runs of `inspect`: checkpoints, shards, and ranks that share the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.cli.interruption import RESULT, StopRequest
from normscope.cli.output import Output, say
from normscope.cli.torchrun import gather, watch_ranks
from normscope.errors import UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from normscope.analyses.distributed import Ranks
    from normscope.data.shards import Shard
    from normscope.engine.checkpoint import Checkpoint
    from normscope.engine.progress import Progress
    from normscope.results.inspect import Report


@dataclass(frozen=True)
class CheckpointOptions:
    """The options of a checkpoint."""

    path: str | None
    every: float
    resume: bool

    def check(self) -> None:
        """Raise UsageError or ReportError for options that cannot work, before the run."""
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
        """Return the checkpoint of this rank, None without --checkpoint."""
        if self.path is None:
            return None
        from normscope.engine.checkpoint import Checkpoint

        path = self.paths(ranks)[0 if ranks is None else ranks.rank]
        checkpoint = Checkpoint(path, self.every, self.resume, facts)
        if self.resume and not checkpoint.exists() and not quiet:
            say(f"no checkpoint at {quoted(path)} yet: the run starts from the beginning")
        return checkpoint

    def finish(self, checkpoint: "Checkpoint | None", request: StopRequest, ranks: "Ranks | None") -> None:
        """Remove the checkpoint of a complete run after its result is written; exit if it was interrupted."""
        if checkpoint is not None and not request.exit_code:
            if ranks is not None:
                ranks.wait_for_all()
            checkpoint.remove()
        request.end()


def shard_for(ranks: "Ranks | None", shard: str | None) -> "Shard | None":
    """Return the part of the corpus that this rank, or --shard, takes; None for all of it."""
    if ranks is not None and shard is not None:
        raise UsageError(
            f"--shard {shard} was given to {ranks.count} ranks, which share by themselves; drop it"
        )
    from normscope.data.shards import Shard

    return ranks.shard if ranks is not None else None if shard is None else Shard.read(shard)


def run_and_merge(
    run: "Callable[..., Report]",
    ranks: "Ranks | None",
    progress: "Callable[[Progress], None]",
    request: StopRequest,
) -> "Report | None":
    """Run to the end or to a signal; return the report of all ranks, None if another rank has it."""
    report = run(stop=request.stop, progress=watch_ranks(ranks, progress))
    request.finishes = RESULT
    return gather(ranks, report, request)
