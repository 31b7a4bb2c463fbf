"""HTML markup: `tag` and `join` return it, and every other string is escaped."""

import html
import json
from typing import Any

from normscope.escaping import printable

_VOID = {"br", "input", "link", "meta"}


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


_Content = str | None


def tag(name: str, /, *children: _Content, **attributes: str | bool | None) -> Markup:
    """Return an element. Children are escaped unless they are Markup; a child None is left out.

    An attribute's name loses a trailing underscore (`class_`), and its other underscores become `-`. An
    attribute that is True has no value; one that is None or False is left out.
    """
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(start if name in _VOID else f"{start}{join(*children)}</{name}>")


def join(*children: _Content) -> Markup:
    """Return children one after the other, each escaped unless it is Markup."""
    return Markup("".join(escape(child) for child in children if child is not None))


def escape(text: str) -> Markup:
    """Return text as HTML that shows it, with control characters and direction marks made visible."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text), quote=True))


def embedded(data: Any) -> str:
    """Return data as ASCII JSON for a script element: `<`, `>` and `&` are escaped, so none ends it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _attribute(name: str, value: str | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
