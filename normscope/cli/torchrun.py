"""Commands under torchrun: many processes, one result, one line for a failure."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

from normscope.cli.interruption import Asked
from normscope.cli.output import data_alone, patience, say
from normscope.cli.signals import ENDING, NUMBERS
from normscope.data.text_notes import no_text
from normscope.errors import NormscopeError, UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from normscope.analyses.distributed import Ranks
    from normscope.engine.progress import Progress
    from normscope.results.inspect import Report

# Seconds after which a message says that this rank waits for the others.
PATIENCE = 5.0


@contextmanager
def joined() -> "Iterator[Ranks | None]":
    """Meet the other ranks, and let only the first that fails say so; None for a process alone."""
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if count == 1:
        yield None
        return
    if rank >= count:
        raise UsageError(
            f"RANK is {rank}; expected less than WORLD_SIZE, which is {count}; see torchrun --help"
        )
    from normscope.analyses.distributed import Ranks

    # So torchrun ends a rank that waits for others, in code that no handler interrupts.
    for number in NUMBERS[1:]:
        signal.signal(number, signal.SIG_DFL)
    with ExitStack() as met:
        place = f"{os.environ.get('MASTER_ADDR', '(none)')}:{os.environ.get('MASTER_PORT', '(none)')}"
        others = f"rank {rank} waits at {place} for the other ranks of WORLD_SIZE {count}"
        with data_alone(), patience(f"{others}; where there are none: unset WORLD_SIZE RANK", PATIENCE):
            ranks = met.enter_context(Ranks(rank, count))
        try:
            yield ranks
        except BaseException as error:
            if not ranks.fails_first() and isinstance(error, NormscopeError | KeyboardInterrupt | typer.Exit):
                raise typer.Exit(getattr(error, "exit_code", ENDING.code or 1)) from None
            if isinstance(error, NormscopeError):
                raise type(error)(f"rank {rank} of {count}: {error}") from error
            raise


def _number(variable: str, otherwise: int) -> int:
    """Read a whole number from an environment variable that a launcher such as torchrun sets."""
    value = os.environ.get(variable, "")
    if value and not value.isdecimal():
        raise UsageError(
            f"{variable} is {quoted(value)}; expected a whole number, as torchrun sets it; unset it"
        )
    return int(value) if value else otherwise


def require_files(ranks: "Ranks | None", arguments: list[str], files: list[str]) -> None:
    """Raise UsageError for standard input under torchrun: it cannot be read by each rank."""
    if ranks is not None and ("-" in (*arguments, *files) or not (arguments or files)):
        raise UsageError("ranks would share standard input; expected texts that each can read; name a --file")


def leads(ranks: "Ranks | None") -> bool:
    """Whether this process is the one that writes."""
    return ranks is None or ranks.rank == 0


def watching(ranks: "Ranks | None", progress: "Callable[[Progress], None]") -> "Callable[[Progress], None]":
    """Return a progress function that also ends the run when another rank has failed."""
    if ranks is None:
        return progress

    def both(now: "Progress") -> None:
        ranks.check_others()
        progress(now)

    return both


def gathered(ranks: "Ranks | None", report: "Report", asked: Asked) -> "Report | None":
    """Return the report of all ranks, None where another rank has it; none is made when interrupted."""
    if ranks is None:
        return report
    if asked.exit_code:
        if ranks.fails_first():
            say("interrupted")
        asked.end()
    whole = ranks.gather(report)
    if whole is not None and not whole.run.texts:
        raise no_text(whole.run.skipped_texts)
    return whole
