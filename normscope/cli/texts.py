"""What to feed a model: the texts that were named, that are piped in, or else the built-in sentences."""

import sys
from typing import TYPE_CHECKING

from normscope.cli.streams import say
from normscope.errors import TextError, UsageError
from normscope.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO


def texts_to_feed(
    arguments: list[str],
    files: list[str],
    field: str | None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    token: str | None = None,
    quiet: bool,
) -> "Iterable[str]":
    """Return what was named, or else what is piped in, or else the built-in sentences."""
    if dataset is not None:
        if arguments or files:
            raise UsageError("--dataset was given beside other texts; expected one or the other; drop one")
        return _of_dataset(dataset, split, field, token)
    if split is not None:
        raise UsageError("--split was given without a --dataset; name the dataset that has it")
    if arguments or files or not _is_terminal(sys.stdin):
        return _begun(arguments or ([] if files else ["-"]), files, field)
    from normscope.samples import SENTENCES

    if field is not None:
        raise UsageError("--field was given without a --file or --dataset; name the one that has it")
    if not quiet:
        say(f"no text given: using {len(SENTENCES)} built-in sentences")
    return SENTENCES


def named_files(files: list[str], field: str | None) -> "Iterable[str]":
    """Return the texts of the files that were named for a purpose of their own."""
    return _begun([], files, field)


def _of_dataset(dataset: str, split: str | None, field: str | None, token: str | None) -> "Iterable[str]":
    from normscope.dataset import read_dataset

    texts = read_dataset(dataset, split=split, field=field, token=token)
    if not texts.begin():
        raise TextError(f"the dataset {quoted(dataset)} has no rows; expected some; name another split")
    return texts


def _begun(arguments: list[str], files: list[str], field: str | None) -> "Iterable[str]":
    from normscope.texts import read_texts

    texts = read_texts(arguments, files, field=field)
    # Asked for now: an empty pipe should not cost the loading of a model.
    if not texts.begin():
        sources = " and ".join(
            "standard input" if name == "-" else quoted(name) for name in (*arguments, *files)
        )
        raise TextError(
            f"no text on {sources}; expected one text a line; give TEXT, or a pipe or --file with some"
        )
    return texts


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty()
