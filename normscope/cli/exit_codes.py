"""Exit codes of the commands, and the one line on standard error that explains a failure."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from normscope.cli.output import say, silence
from normscope.cli.signals import ENDING
from normscope.cli.usage_errors import USAGE_ERROR, is_help, one_line
from normscope.errors import NormscopeError

_WRONG_USAGE = 2


@contextmanager
def guard() -> Iterator[None]:
    """Turn our own errors, Ctrl-C and a closed pipe into exit codes; any other exception is a bug."""
    try:
        try:
            ENDING.begin()
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
        finally:
            ENDING.raises = False
    except NormscopeError as error:
        say(f"error: {error}")
        raise typer.Exit(error.exit_code) from None
    except USAGE_ERROR as error:
        if is_help(error):
            raise
        say(f"error: {one_line(error)}")
        raise typer.Exit(_WRONG_USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(ENDING.announce()) from None
    except SystemExit as error:  # our own commands end by typer.Exit
        problem = f"a model's code ended Python (sys.exit({error.code!r}))"
        say(f"error: {problem}; expected it to continue; fix that code")
        raise typer.Exit(1) from None
    except BrokenPipeError:
        silence()
        raise typer.Exit(0) from None


@contextmanager
def full_disk() -> Iterator[None]:
    """Turn a full disk under standard output into one line and exit code 1."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        silence()
        say("error: cannot write to standard output: no space is left; free some space")
        sys.exit(1)
