"""Lines of a UTF-8 stream, decoded one by one with checks."""

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from normscope.errors import TextError

# In bytes. Without a limit, a source without line ends, such as /dev/zero, would fill the memory.
LONGEST_LINE = 1 << 26

_BOM = b"\xef\xbb\xbf"


class Lines(Iterator[str]):
    """The decoded lines of one stream, with their line ends; `number` is that of the last line, from 1.

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
            if raw.startswith((b"PAR1", b"ARROW1")):
                raise self.error(
                    "no text but a table in parquet or arrow; expected text; name it as --dataset"
                )
            raise self.error("a NUL byte, so this is not a text file; expected UTF-8 text; name another file")
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
        """Return the error to raise for a line, by default the last one."""
        return TextError(f"{self._name}, line {line or self.number}: {what}")


def lone_surrogate(text: str) -> int | None:
    """Return the index of the first half of a UTF-16 pair that stands alone: it has no UTF-8 form."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None
