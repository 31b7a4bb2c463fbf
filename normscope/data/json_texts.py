"""Texts and conversations in JSON: one value a line, or an array."""

import json
import reprlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from normscope.data.conversations import EXPECTED, MESSAGES, as_text
from normscope.data.text_lines import LONGEST_LINE, Lines, lone_surrogate
from normscope.errors import TextError


class Field(NamedTuple):
    """The member or column that holds the text, by its `name`; with `chat` it holds a conversation."""

    name: str | None = None
    chat: bool = False

    @property
    def member(self) -> str:
        """The name, or the one that is usual."""
        return self.name or (MESSAGES if self.chat else "text")


def json_texts(lines: Lines, field: Field) -> Iterator[str]:
    """Yield the texts of an array, which may have many lines, or else of one value per line.

    Raises TextError for anything else.
    """
    read: list[str] = []
    for line in lines:
        read.append(line)
        if line.strip():
            break
    if not read or not read[-1].lstrip().startswith("["):
        yield from json_lines(lines, field, read)
        return
    size = len(read[-1])
    for line in lines:
        size += len(line)
        if size > LONGEST_LINE:
            raise lines.error(
                f"an array of over {LONGEST_LINE} characters; expected fewer; convert it to .jsonl"
            )
        read.append(line)
    for number, value in enumerate(_value("".join(read), lines, 1, field), 1):
        yield _text(value, field, partial(_of_element, lines, number))


def _of_element(lines: Lines, number: int, what: str) -> TextError:
    return lines.error(f"element {number} of the array: {what}", 1)


def json_lines(lines: Lines, field: Field, before: Sequence[str] = ()) -> Iterator[str]:
    """Yield the text of the JSON value in each line; a blank line is a blank text. Raises TextError."""
    for line in chain(before, lines):
        text = line.strip()
        yield _text(_value(text, lines, lines.number, field), field, lines.error) if text else ""


def _value(text: str, lines: Lines, first: int, field: Field) -> Any:
    try:
        # A number is never a text, and may have more digits than Python's int accepts.
        return json.loads(text, parse_int=int if field.chat else _Number)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error)
        advice = 'expected JSON, one value a line or in .json an array, such as {"text": "..."}; correct it'
        raise lines.error(f"not JSON: {reason}; {advice}", first + getattr(error, "lineno", 1) - 1) from error


class _Number(float):
    """A whole number in JSON, of any length."""


def _text(value: Any, field: Field, error: Callable[[str], TextError]) -> str:
    """Return the text in a JSON value; null is a blank text, as in `datasets`."""
    text = _member(value, field, error) if isinstance(value, dict) else value
    if text is None:
        return ""
    if field.chat:
        return _conversation(text, error)
    if not isinstance(text, str):
        got = "int" if isinstance(text, _Number) else type(text).__name__
        raise error(f"the text is {got}; expected a string or an object with one; correct the line")
    if (position := lone_surrogate(text)) is not None:
        raise error(f"half a UTF-16 pair at character {position + 1}; expected Unicode; remove it")
    return text


def _conversation(value: object, error: Callable[[str], TextError]) -> str:
    """Return the JSON of a conversation, or the text that is expected to be one."""
    text = value if isinstance(value, str) else as_text(value)
    if text is None:
        got = f"the messages are {reprlib.repr(value)}"
        raise error(f"{got}; {EXPECTED}; name another field with --field, or leave out --chat-template")
    return text


def _member(value: dict[str, object], field: Field, error: Callable[[str], TextError]) -> object:
    if field.member in value:
        return value[field.member]
    strings = [member for member in value.values() if isinstance(member, str)]
    if field.name is None and len(strings) == 1 and not field.chat:
        return strings[0]
    members = reprlib.repr(list(value))
    raise error(f"no member {field.member!r}; expected one of {members}; name one as the field")
