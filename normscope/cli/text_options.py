"""Text options: named texts, piped texts, or the built-in sentences."""

import os
import stat
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from normscope.cli import options, token_options
from normscope.cli.output import notice_if_slow, say
from normscope.errors import TextError, UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from normscope.models.loading import Loaded

# Seconds without a first text after which a message says that the command waits for it.
PATIENCE = 3.0
_STANDARD_INPUT = "/dev/stdin"


@dataclass(frozen=True)
class TextOptions:
    """The options that name texts."""

    text: options.Text = None
    file: options.File = None
    dataset: options.Dataset = None
    split: options.Split = None
    field: options.Field = None
    chat_template: token_options.ChatTemplate = False

    @property
    def any_named(self) -> bool:
        """Whether any of them was given."""
        return bool(self.text or self.file or self.field or self.dataset)

    def paths(self, model: str) -> dict[str, list[str]]:
        """Return the paths that are read, the model's included, by the option or argument that names them."""
        piped = "-" in (*(self.text or []), *(self.file or [])) or not self.any_named
        return {
            "MODEL": [model],
            "--file": self.file or [],
            "--dataset": [self.dataset or ""],
            "standard input": [_STANDARD_INPUT] if piped else [],
        }

    def explicit(self) -> "TextOptions":
        """Return the options that read the same texts, with - for a pipe that was not named."""
        return replace(self, text=["-"]) if self._reads_pipe else self

    @property
    def reads_stdin(self) -> bool:
        """Whether standard input has texts, named or not; it can be read once."""
        return "-" in (*(self.text or []), *(self.file or [])) or self._reads_pipe

    @property
    def _reads_pipe(self) -> bool:
        """Whether no texts were named, and standard input has some."""
        named = self.text or self.file or self.dataset
        return not (named or _is_terminal(sys.stdin) or _is_null(sys.stdin))

    @property
    def facts(self) -> dict[str, str | None]:
        """The options and file sizes that decide, in addition to the paths, which texts are read."""
        sizes = [str(Path(name).stat().st_size) for name in self.file or [] if Path(name).is_file()]
        return {
            "field": self.field,
            "dataset": self.dataset,
            "split": self.split,
            "file sizes": " + ".join(sizes) or None,
        }

    def feed(self, *, token: str | None, quiet: bool, local: bool = False) -> "Iterable[str]":
        """Return the texts that were named, else those of a pipe, else the built-in sentences.

        With `local` no dataset is read over the network.
        """
        arguments, files = self.text or [], self.file or []
        named = bool(arguments or files or self.dataset)
        if named and not quiet and "-" not in (*arguments, *files) and _has_data(sys.stdin):
            say("standard input is not read, since texts were named; name - to read it, too")
        if self.dataset is not None:
            if arguments or files:
                raise UsageError("--dataset was given with other texts; expected one or the other; drop one")
            return self._dataset_texts(self.dataset, token, local=local)
        if self.split is not None:
            raise UsageError("--split was given without a --dataset; name the dataset that has it")
        if arguments or files or self._reads_pipe:
            return self._read_texts(arguments or ([] if files else ["-"]), files, quiet=quiet)
        for option, given in (("--field", self.field is not None), ("--chat-template", self.chat_template)):
            if given:
                raise UsageError(
                    f"{option} was given without a --file or --dataset; name the one that has it"
                )
        from normscope.data.sample_sentences import SENTENCES

        if not quiet:
            say("no text given: using the built-in sentences that the model can read")
        return SENTENCES

    def file_texts(self, files: list[str]) -> "Iterable[str]":
        """Return the texts of files that another option than --file names."""
        return self._read_texts([], files, quiet=True)

    def _dataset_texts(self, dataset: str, token: str | None, *, local: bool) -> "Iterable[str]":
        from normscope.data.hub_dataset import read_dataset

        field, chat = self.field, self.chat_template
        texts = read_dataset(dataset, split=self.split, field=field, token=token, local=local, chat=chat)
        if not texts.begin():
            raise TextError(f"the dataset {quoted(dataset)} has no rows; expected some; name another split")
        return texts

    def _read_texts(self, arguments: list[str], files: list[str], *, quiet: bool) -> "Iterable[str]":
        from normscope.data.text_files import read_texts

        texts = read_texts(arguments, files, field=self.field, chat=self.chat_template)
        names = ("standard input" if name == "-" else quoted(name) for name in (*arguments, *files))
        sources = " and ".join(names)
        # The first text is read here, so that an empty pipe fails before a model is loaded.
        with notice_if_slow(f"waiting for the first text of {sources}", PATIENCE, quiet=quiet):
            has_text = texts.begin()
        if not has_text:
            raise TextError(
                f"no text on {sources}; expected one text a line; give TEXT, or a pipe or --file with some"
            )
        return texts


def readable_texts(texts: "Iterable[str]", loaded: "Loaded") -> "Iterable[str]":
    """Return the texts to feed a model: of the built-in sentences only those that it can read."""
    from normscope.data.sample_sentences import SENTENCES, readable

    return readable(loaded.tokenizer) if texts is SENTENCES else texts


def _is_terminal(stream: "TextIO | None") -> bool:
    return stream is not None and stream.isatty()


def _is_null(stream: "TextIO | None") -> bool:
    """Whether a stream is /dev/null."""
    status = _status(stream)
    return (
        status is not None
        and stat.S_ISCHR(status.st_mode)
        and status.st_rdev == Path(os.devnull).stat().st_rdev
    )


def _has_data(stream: "TextIO | None") -> bool:
    """Whether a pipe or file has unread data; false if that is unknown."""
    status = _status(stream)
    if stream is None or status is None:
        return False
    if stat.S_ISREG(status.st_mode):
        return status.st_size > 0
    try:
        import fcntl
        import termios
    except ImportError:  # Windows
        return False
    return stat.S_ISFIFO(status.st_mode) and any(fcntl.ioctl(stream.fileno(), termios.FIONREAD, bytes(4)))


def _status(stream: "TextIO | None") -> os.stat_result | None:
    try:
        return None if stream is None else os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return None
