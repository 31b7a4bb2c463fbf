"""What to feed a model: the texts that were named, that are piped in, or else the built-in sentences."""

import sys
from itertools import chain
from typing import TYPE_CHECKING

from normscope.cli.streams import say
from normscope.errors import TextError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from normscope.texts import Texts


def texts_to_feed(
    arguments: list[str], files: list[str], field: str | None, *, quiet: bool
) -> "Iterable[str]":
    """Return what was named, or else what is piped in, or else the built-in sentences."""
    from normscope.texts import read_texts

    if arguments or files:
        return read_texts(arguments, files, field=field)
    if not _is_terminal(sys.stdin):
        return _piped(read_texts(["-"], field=field))
    from normscope.samples import SENTENCES

    if field is not None:
        raise UsageError("--field was given without a --file; name the file that has it")
    if not quiet:
        say(f"no text given: using {len(SENTENCES)} built-in sentences")
    return SENTENCES


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty()


def _piped(lines: "Texts") -> "Iterable[str]":
    """Ask for the first line now: an empty pipe should not cost the loading of a model."""
    first = next(lines, None)
    if first is None:
        raise TextError(
            "no text on standard input; expected one text a line; pipe some in, or give TEXT or a --file"
        )
    return chain([first], lines)
