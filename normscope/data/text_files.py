"""Texts from arguments, files and standard input, read lazily as one stream."""

import csv
import gzip
import json
import os
import reprlib
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from normscope.data.json_texts import Field, json_lines, json_texts
from normscope.data.text_lines import LONGEST_LINE, Lines, lone_surrogate
from normscope.errors import TextError, UsageError
from normscope.escaping import counted


@dataclass(frozen=True)
class _File:
    """A file named by the user; `size` in bytes is None if it is unknown, as for a pipe."""

    path: str
    size: int | None

    @property
    def zipped(self) -> bool:
        return self.path.lower().endswith(".gz")

    @property
    def suffix(self) -> str:
        """The suffix in lower case and without `.gz`, such as `.txt` or `.jsonl`."""
        return Path(self.path.lower().removesuffix(".gz")).suffix


class Texts(Iterator[str]):
    """The texts of several sources in their order, read one by one in constant memory.

    `operator.length_hint` estimates the number of texts left: the arguments left, and for files the texts
    so far divided by the share of bytes that is read. It is 0 if that is unknown: before the first line of
    a file, and whenever a pipe is among the sources. Raises TextError while iterating.
    """

    def __init__(self, sources: "Sequence[str | Lines | _File]", field: Field) -> None:
        self._arguments_left = sum(isinstance(source, str) for source in sources)
        self._sizes = [None if isinstance(s, Lines) else s.size for s in sources if not isinstance(s, str)]
        self._handle: BinaryIO | None = None
        self._bytes_done = 0
        self._from_files = 0
        self._stream = self._read(sources, field)
        self._ahead: list[str] = []

    def begin(self) -> bool:
        """Read the first text ahead, and return whether there is any."""
        self._ahead += islice(self, 1)
        return bool(self._ahead)

    def __next__(self) -> str:
        if self._ahead:
            return self._ahead.pop(0)
        text = next(self._stream)
        self._from_files += self._handle is not None
        return text

    def __length_hint__(self) -> int:
        sizes = [size for size in self._sizes if size is not None]
        if len(sizes) < len(self._sizes):
            return 0  # A pipe is among the sources.
        # For .gz this is the position in the compressed file, because only its size is known in advance.
        done = self._bytes_done + (self._handle.tell() if self._handle else 0)
        left = sum(sizes) - done
        if not done:
            return 0 if left else self._arguments_left
        return self._arguments_left + max(0, self._from_files * left // done)

    def _read(self, sources: "Sequence[str | Lines | _File]", field: Field) -> Iterator[str]:
        for source in sources:
            if isinstance(source, str):
                self._arguments_left -= 1
                yield source
            elif isinstance(source, Lines):
                yield from _plain(source, field)
            else:
                yield from self._read_file(source, field)
                self._bytes_done += source.size or 0

    def _read_file(self, file: _File, field: Field) -> Iterator[str]:
        with _open(file.path) as handle:
            self._handle = handle
            try:
                stream: Any = gzip.GzipFile(fileobj=handle) if file.zipped else handle
                yield from _READERS.get(file.suffix, _unknown)(Lines(stream, repr(file.path)), field)
            finally:
                self._handle = None


def read_texts(
    arguments: Sequence[str] = (),
    files: Sequence[str | os.PathLike[str]] = (),
    *,
    field: str | None = None,
    chat: bool = False,
) -> Texts:
    """Return the texts of the arguments, then those of the files, without reading the files yet.

    An argument is one text. A file holds one text per line (.txt and any other suffix), one JSON value per
    line (.jsonl, .ndjson), such lines or an array (.json), or a table with a header row (.csv, .tsv), each
    also with .gz; `field` names the member or column. With `chat` the texts are conversations in JSON, and
    the member is a list of messages. `-` as an argument or a file is standard input, with one text per line.
    A file with another suffix is refused if it begins like JSON or XML.

    Raises UsageError if standard input is named twice or `field` is given without a file that has fields,
    and TextError for a missing file or an argument that is not a text.
    """
    paths = [os.fsdecode(file) for file in files]
    if [*arguments, *paths].count("-") > 1:
        raise UsageError("standard input ('-') is named twice or more; it can be read once; name it once")
    checked = [_argument(text, number) for number, text in enumerate(arguments, 1)]
    sources = [_standard_input() if path == "-" else _file(path) for path in paths]
    if field is not None and not any(isinstance(s, _File) and s.suffix in _FIELDS for s in sources):
        raise UsageError(
            f"the field {field!r} was given without a file that has fields; expected a file named "
            f"{', '.join(_FIELDS)} (or one of these with .gz); leave the field out or name such a file"
        )
    return Texts([*checked, *sources], Field(field, chat))


def _argument(text: str, number: int) -> "str | Lines":
    if text == "-":
        return _standard_input()
    if "\0" in text:
        raise TextError(f"text {number} of the arguments holds a NUL character; expected text; remove it")
    if (position := lone_surrogate(text)) is not None:
        raise TextError(
            f"text {number} of the arguments is not UTF-8 at character {position + 1}; expected UTF-8 text; "
            "check the encoding of the terminal or name a file instead"
        )
    return text


def _standard_input() -> "Lines":
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise TextError("standard input is closed; expected one text a line; pipe texts in or name a file")
    return Lines(stream, "standard input")


def _file(path: str) -> _File:
    try:
        status = Path(path).stat()
        if not path:
            raise TextError("a file's name is empty; expected a file of texts; name one, or leave it out")
        if stat.S_ISDIR(status.st_mode):
            raise TextError(f"{path!r} is a directory; expected a file of texts; name the files in it")
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise TextError(
                f"{path!r} is a device; expected a file of texts or a pipe; name one, or - to type"
            )
        if not os.access(path, os.R_OK):
            raise PermissionError(None, "permission denied")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _File(path, status.st_size if stat.S_ISREG(status.st_mode) else None)


def _open(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> TextError:
    reason = getattr(error, "strerror", None) or str(error)
    return TextError(
        f"cannot read {path!r}: {reason}; expected a file of texts; check its name and permissions"
    )


def _plain(lines: Iterable[str], _field: Field) -> Iterator[str]:
    for line in lines:
        yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def _unknown(lines: Lines, _field: Field) -> Iterator[str]:
    """Read a file with an unknown suffix as lines of text; TextError if it begins like JSON or XML."""
    first = next(lines, None)
    if first is None:
        return
    start = first.lstrip()
    if start.startswith("<?xml") or start.strip() in ("{", "[") or _is_json(start):
        kind = "XML" if start.startswith("<") else "JSON"
        raise lines.error(
            f"this begins as {kind} does; expected one text a line; convert it, or name it .json or .txt"
        )
    yield from _plain(chain([first], lines), _field)


def _is_json(line: str) -> bool:
    try:
        return line[:1] in ("{", "[") and isinstance(json.loads(line, parse_int=str), dict | list)
    except (ValueError, RecursionError):
        return False


def _table(lines: Lines, field: Field, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    # Without `strict`, one quote that is not closed makes the rest of the file a single text.
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _next_row(rows, lines)
    if header is None:
        return
    column = _column(header, field, lines)
    while True:
        start, row = lines.number + 1, _next_row(rows, lines)
        if row is None:
            return
        if row and (len(row) <= column or any(row[len(header) :])):
            got = f"{counted(len(row), 'cell')} where the header has {len(header)}"
            raise lines.error(f"{got}; quote cells that hold a delimiter, or add what is missing", start)
        yield row[column] if row else ""


def _next_row(rows: Iterator[list[str]], lines: Lines) -> list[str] | None:
    start = lines.number + 1
    try:
        return next(rows, None)
    except csv.Error as error:
        if "new-line character" in str(error):
            got = "a carriage return (CR) outside of quotes is not a line end"
            raise lines.error(f"{got}; expected LF or CRLF; convert the file", start) from error
        advice = "expected rows whose quoted cells are closed and double the quotes inside; correct the row"
        raise lines.error(f"in the row that starts here: {error}; {advice}", start) from error


def _column(header: list[str], field: Field, lines: Lines) -> int:
    if field.member in header:
        return header.index(field.member)
    if field.name is None and len(header) == 1:
        return 0
    raise lines.error(
        f"no column {field.member!r}; expected one of {reprlib.repr(header)}; name one as the field", 1
    )


_READERS: dict[str, Callable[[Lines, Field], Iterator[str]]] = {
    ".txt": _plain,
    ".json": json_texts,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
_FIELDS = [suffix for suffix in _READERS if suffix != ".txt"]
