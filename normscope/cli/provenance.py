"""Provenance of a command's result: the command line as it was typed, and a line on standard error."""

import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from normscope.cli.output import say, warn

if TYPE_CHECKING:
    from normscope.results.provenance import Provenance

_TYPED: ContextVar[str | None] = ContextVar("typed", default=None)
_SECRET = "--token"
_MASK = "HIDDEN"


class _Traced(Protocol):
    """A result that may have a provenance."""

    @property
    def provenance(self) -> "Provenance | None":
        """Where the result is from."""


R = TypeVar("R", bound=_Traced)


def note_command(words: Sequence[str]) -> None:
    """Keep the words of the command line that is being parsed, without the program's name."""
    _TYPED.set(shlex.join(["normscope", *_masked(words)]))


def with_command(result: R) -> R:
    """Return a result whose provenance has the command line; a result without a provenance is unchanged."""
    if result.provenance is None:
        return result
    return replace(result, provenance=replace(result.provenance, command=_TYPED.get()))  # type: ignore[type-var]


def say_notes(result: _Traced, *, quiet: bool, verbose: bool) -> None:
    """Write a result's warnings to standard error, and if `verbose` also where it is from."""
    if quiet:
        return
    warn(getattr(result, "warnings", ()), verbose=verbose)
    if verbose and result.provenance is not None:
        from normscope.render.provenance import provenance_facts

        say(f"provenance: {'; '.join(provenance_facts(result.provenance))}")


def _masked(words: Sequence[str]) -> Iterator[str]:
    """Yield the words with a mask in place of each secret."""
    before = ""
    for word in words:
        if before == _SECRET:
            yield _MASK
        else:
            yield f"{_SECRET}={_MASK}" if word.startswith(f"{_SECRET}=") else word
        before = word
