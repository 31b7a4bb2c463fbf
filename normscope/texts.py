"""Arguments, files and standard input, read lazily as one stream of texts."""

import csv
import gzip
import json
import os
import reprlib
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from normscope.errors import TextError, UsageError
from normscope.printable import counted

# A source without line ends, such as /dev/zero, must end in a message before it fills the memory.
LONGEST_LINE = 1 << 26

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class _File:
    """A file named by the user; `size` in bytes is None where it cannot be known, as for a pipe."""

    path: str
    size: int | None

    @property
    def zipped(self) -> bool:
        return self.path.lower().endswith(".gz")

    @property
    def suffix(self) -> str:
        """What the file holds, in lower case and without the `.gz`: `.txt`, `.jsonl`."""
        return Path(self.path.lower().removesuffix(".gz")).suffix


class Texts(Iterator[str]):
    """The texts in the order they were named, each read as it is asked for; memory stays constant.

    `operator.length_hint` estimates how many are still to come: the arguments left, and for files
    the texts so far against the share of bytes consumed. It is 0 where that is unknown: before the
    first line of a file, and whenever a pipe is among the sources. Raises TextError while iterating.
    """

    def __init__(self, sources: "Sequence[str | _Lines | _File]", field: str | None) -> None:
        self._arguments_left = sum(isinstance(source, str) for source in sources)
        self._sizes = [None if isinstance(s, _Lines) else s.size for s in sources if not isinstance(s, str)]
        self._handle: BinaryIO | None = None
        self._bytes_done = 0
        self._from_files = 0
        self._stream = self._read(sources, field)
        self._ahead: list[str] = []

    def begin(self) -> bool:
        """Read the first text ahead, and tell whether there is any."""
        self._ahead += islice(self, 1)
        return bool(self._ahead)

    def __next__(self) -> str:
        if self._ahead:
            return self._ahead.pop(0)
        text = next(self._stream)
        self._from_files += self._handle is not None
        return text

    def __length_hint__(self) -> int:
        known = [size for size in self._sizes if size is not None]
        if len(known) < len(self._sizes):
            return 0  # a pipe
        # For .gz this is the place in the compressed file, the only size known beforehand.
        done = self._bytes_done + (self._handle.tell() if self._handle else 0)
        left = sum(known) - done
        if not done:
            return 0 if left else self._arguments_left
        return self._arguments_left + max(0, self._from_files * left // done)

    def _read(self, sources: "Sequence[str | _Lines | _File]", field: str | None) -> Iterator[str]:
        for source in sources:
            if isinstance(source, str):
                self._arguments_left -= 1
                yield source
            elif isinstance(source, _Lines):
                yield from _plain(source, field)
            else:
                yield from self._read_file(source, field)
                self._bytes_done += source.size or 0

    def _read_file(self, file: _File, field: str | None) -> Iterator[str]:
        with _open(file.path) as handle:
            self._handle = handle
            try:
                stream: Any = gzip.GzipFile(fileobj=handle) if file.zipped else handle
                yield from _READERS.get(file.suffix, _plain)(_Lines(stream, repr(file.path)), field)
            finally:
                self._handle = None


def read_texts(
    arguments: Sequence[str] = (),
    files: Sequence[str | os.PathLike[str]] = (),
    *,
    field: str | None = None,
    stdin: BinaryIO | None = None,
) -> Texts:
    """Return the texts of the arguments, then those of the files, without reading them yet.

    An argument is one text. A file holds one text a line (.txt and any other suffix), one JSON value
    a line (.jsonl, .ndjson), or a table with a header row (.csv, .tsv), each also with .gz; `field`
    picks the member or column. `-` among either is standard input, one text a line.

    What can be known beforehand is checked here: UsageError for standard input named twice or a
    `field` without a file that has any, TextError for a missing file or an argument that is no text.
    """
    paths = [os.fsdecode(file) for file in files]
    if [*arguments, *paths].count("-") > 1:
        raise UsageError("standard input ('-') is named twice or more; it can be read once; name it once")
    checked = [_argument(text, number, stdin) for number, text in enumerate(arguments, 1)]
    found = [_standard_input(stdin) if path == "-" else _find(path) for path in paths]
    if field is not None and not any(isinstance(file, _File) and file.suffix in _READERS for file in found):
        raise UsageError(
            f"the field {field!r} was given without a file that has fields; expected a file named "
            f"{', '.join(_READERS)} (or one of these with .gz); leave the field out or name such a file"
        )
    return Texts([*checked, *found], field)


def _argument(text: str, number: int, stdin: BinaryIO | None) -> "str | _Lines":
    if text == "-":
        return _standard_input(stdin)
    if "\0" in text:
        raise TextError(f"text {number} of the arguments holds a NUL character; expected text; remove it")
    if (place := _lone_surrogate(text)) is not None:
        raise TextError(
            f"text {number} of the arguments is not UTF-8 at character {place + 1}; expected UTF-8 text; "
            "check the encoding of the terminal or name a file instead"
        )
    return text


def _standard_input(stdin: BinaryIO | None) -> "_Lines":
    stream: BinaryIO | None = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise TextError("standard input is closed; expected one text a line; pipe texts in or name a file")
    return _Lines(stream, "standard input")


def _find(path: str) -> _File:
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise TextError(f"{path!r} is a directory; expected a file of texts; name the files in it")
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


def _lone_surrogate(text: str) -> int | None:
    """Where the first half of a UTF-16 pair stands alone: such a text has no UTF-8 form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


class _Lines(Iterator[str]):
    """The decoded lines of one stream, line ends kept; `number` is the last line's, from 1.

    Only \\n ends a line: a form feed, a lone \\r or U+2028 belongs to the text around it.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.number = 0

    def __next__(self) -> str:
        self.number += 1
        raw = self._next_bytes()
        if b"\0" in raw:
            raise self.error("a NUL byte, so this is no text file; expected UTF-8 text; name another file")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(
                f"byte {raw[error.start]:#04x} at place {error.start + 1} is not UTF-8; expected UTF-8 text; "
                "convert it first, for example with iconv"
            ) from error

    def _next_bytes(self) -> bytes:
        try:
            raw = self._stream.readline(LONGEST_LINE)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.error(f"{reason}; expected text or a whole gzip file; check the source") from error
        if not raw:
            raise StopIteration
        if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            raise self.error(f"no line end in {LONGEST_LINE} bytes; expected one text a line; split it")
        return raw.removeprefix(_BOM) if self.number == 1 else raw

    def error(self, what: str, line: int | None = None) -> TextError:
        return TextError(f"{self._name}, line {line or self.number}: {what}")


def _plain(lines: _Lines, _field: str | None) -> Iterator[str]:
    for line in lines:
        yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def _json_lines(lines: _Lines, field: str | None) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            yield ""
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            advice = 'expected one JSON value a line, such as {"text": "..."}; correct the line'
            raise lines.error(f"not JSON: {reason}; {advice}") from error
        text = _member(value, field, lines) if isinstance(value, dict) else value
        if not isinstance(text, str):
            got = "null" if text is None else type(text).__name__
            raise lines.error(f"the text is {got}; expected a string or an object with one; correct the line")
        if (place := _lone_surrogate(text)) is not None:
            raise lines.error(f"half a UTF-16 pair at character {place + 1}; expected Unicode; remove it")
        yield text


def _member(value: dict[str, object], field: str | None, lines: _Lines) -> object:
    name = "text" if field is None else field
    if name in value:
        return value[name]
    strings = [member for member in value.values() if isinstance(member, str)]
    if field is None and len(strings) == 1:
        return strings[0]
    members = reprlib.repr(list(value))
    raise lines.error(f"no member {name!r}; expected one of {members}; name one as the field")


def _table(lines: _Lines, field: str | None, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    # strict: otherwise one quote left open swallows the rest of the file as a single text.
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


def _next_row(rows: Iterator[list[str]], lines: _Lines) -> list[str] | None:
    start = lines.number + 1
    try:
        return next(rows, None)
    except csv.Error as error:
        if "new-line character" in str(error):
            got = "a carriage return (CR) outside of quotes is no line end"
            raise lines.error(f"{got}; expected LF or CRLF; convert the file", start) from error
        advice = "expected rows whose quoted cells are closed and double the quotes inside; correct the row"
        raise lines.error(f"in the row that starts here: {error}; {advice}", start) from error


def _column(header: list[str], field: str | None, lines: _Lines) -> int:
    name = "text" if field is None else field
    if name in header:
        return header.index(name)
    if field is None and len(header) == 1:
        return 0
    raise lines.error(f"no column {name!r}; expected one of {reprlib.repr(header)}; name one as the field", 1)


_READERS: dict[str, Callable[[_Lines, str | None], Iterator[str]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
