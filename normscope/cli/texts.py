"""What to feed a model: the texts that were named, that are piped in, or else the built-in sentences."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.cli import options
from normscope.cli.streams import say
from normscope.errors import TextError, UsageError
from normscope.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

STANDARD_INPUT = "/dev/stdin"


@dataclass(frozen=True)
class TextOptions:
    """The options that name texts."""

    text: options.Text = None
    file: options.File = None
    dataset: options.Dataset = None
    split: options.Split = None
    field: options.Field = None

    @property
    def any_named(self) -> bool:
        """Whether any of them was given."""
        return bool(self.text or self.file or self.field or self.dataset)

    def places(self, model: str) -> dict[str, list[str]]:
        """Return the paths that are read, with the model's, by the option or argument that names them."""
        piped = "-" in (*(self.text or []), *(self.file or [])) or not self.any_named
        return {
            "MODEL": [model],
            "--file": self.file or [],
            "--dataset": [self.dataset or ""],
            "standard input": [STANDARD_INPUT] if piped else [],
        }

    @property
    def facts(self) -> dict[str, str | None]:
        """What decides, beside the texts' own place, which texts are read."""
        return {"field": self.field, "dataset": self.dataset, "split": self.split}

    def feed(self, *, token: str | None, quiet: bool) -> "Iterable[str]":
        """Return what was named, or else what is piped in, or else the built-in sentences."""
        arguments, files, field = self.text or [], self.file or [], self.field
        if self.dataset is not None:
            if arguments or files:
                raise UsageError(
                    "--dataset was given beside other texts; expected one or the other; drop one"
                )
            return _of_dataset(self.dataset, self.split, field, token)
        if self.split is not None:
            raise UsageError("--split was given without a --dataset; name the dataset that has it")
        if arguments or files or not _is_terminal(sys.stdin):
            return _begun(arguments or ([] if files else ["-"]), files, field)
        if field is not None:
            raise UsageError("--field was given without a --file or --dataset; name the one that has it")
        return _sentences(quiet=quiet)


def named_files(files: list[str], field: str | None) -> "Iterable[str]":
    """Return the texts of the files that were named for a purpose of their own."""
    return _begun([], files, field)


def _sentences(*, quiet: bool) -> "Iterable[str]":
    from normscope.samples import SENTENCES

    if not quiet:
        say(f"no text given: using {len(SENTENCES)} built-in sentences")
    return SENTENCES


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
