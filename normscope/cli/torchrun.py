"""Commands under torchrun: many processes, one result, one line for a failure."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

from normscope.cli.interruption import StopRequest
from normscope.cli.output import notice_if_slow, reserve_stdout, say
from normscope.cli.signals import ENDING, NUMBERS
from normscope.data.corpus import no_text
from normscope.errors import NormscopeError, UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from normscope.analyses.distributed import Ranks
    from normscope.engine.progress import Progress
    from normscope.results.inspect import Report

# Seconds until a message says that this rank waits for the others.
PATIENCE = 5.0


@contextmanager
def join_ranks() -> "Iterator[Ranks | None]":
    """Join the other ranks, None without any; only the first rank that fails prints an error."""
    rank, count = _environment_number("RANK", 0), _environment_number("WORLD_SIZE", 1)
    if count == 1:
        yield None
        return
    if rank >= count:
        raise UsageError(
            f"RANK is {rank}; expected less than WORLD_SIZE, which is {count}; see torchrun --help"
        )
    from normscope.analyses.distributed import Ranks

    # By default these signals end the process, also in code that no Python handler interrupts.
    for number in NUMBERS[1:]:
        signal.signal(number, signal.SIG_DFL)
    with ExitStack() as stack:
        address = f"{os.environ.get('MASTER_ADDR', '(none)')}:{os.environ.get('MASTER_PORT', '(none)')}"
        notice = (
            f"rank {rank} waits at {address} for the other ranks of WORLD_SIZE {count}; "
            "where there are none: unset WORLD_SIZE RANK"
        )
        with reserve_stdout(), notice_if_slow(notice, PATIENCE):
            ranks = stack.enter_context(Ranks(rank, count))
        try:
            yield ranks
        except BaseException as error:
            if not ranks.fails_first() and isinstance(error, NormscopeError | KeyboardInterrupt | typer.Exit):
                raise typer.Exit(getattr(error, "exit_code", ENDING.code or 1)) from None
            if isinstance(error, NormscopeError):
                raise type(error)(f"rank {rank} of {count}: {error}") from error
            raise


def _environment_number(variable: str, default: int) -> int:
    """Read a whole number from an environment variable that a launcher such as torchrun sets."""
    value = os.environ.get(variable, "")
    if value and not value.isdecimal():
        raise UsageError(
            f"{variable} is {quoted(value)}; expected a whole number, as torchrun sets it; unset it"
        )
    return int(value) if value else default


def require_files(ranks: "Ranks | None", arguments: list[str], files: list[str]) -> None:
    """Raise UsageError for standard input under torchrun, which ranks would share."""
    if ranks is not None and ("-" in (*arguments, *files) or not (arguments or files)):
        raise UsageError("ranks would share standard input; expected texts that each can read; name a --file")


def is_leader(ranks: "Ranks | None") -> bool:
    """Whether this process writes the result."""
    return ranks is None or ranks.rank == 0


def watch_ranks(
    ranks: "Ranks | None", progress: "Callable[[Progress], None]"
) -> "Callable[[Progress], None]":
    """Return a progress function that also ends the run if another rank fails."""
    if ranks is None:
        return progress

    def look_and_report(now: "Progress") -> None:
        ranks.check_others()
        progress(now)

    return look_and_report


def gather(ranks: "Ranks | None", report: "Report", request: StopRequest) -> "Report | None":
    """Return the report of all ranks, None if another rank has it; exit if the run was interrupted."""
    if ranks is None:
        return report
    if request.exit_code:
        if ranks.fails_first():
            say("interrupted")
        request.end()
    merged = ranks.gather(report)
    if merged is not None and not merged.run.texts:
        raise no_text(merged.run.skipped_texts)
    return merged
