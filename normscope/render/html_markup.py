"""HTML markup: only `tag` returns markup, every other string is escaped."""

import html
import json
from typing import Any

from normscope.escaping import printable

_VOID = {"input", "link", "meta"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


_Content = str | None


def tag(name: str, /, *children: _Content, **attributes: str | bool | None) -> Markup:
    """Return an element; children that are no Markup are escaped, those that are None are left out.

    Attributes lose a trailing underscore (`class_`) and have `-` for `_`; True is one without a value,
    and those that are None or False are left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: _Content) -> Markup:
    """Return children one after the other, each escaped unless it is Markup."""
    return Markup("".join(escape(child) for child in children if child is not None))


def escape(text: str) -> Markup:
    """Return text as HTML that shows it, control characters and turns of the reading direction too."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text), quote=True))


def embedded(data: Any) -> str:
    """Return data as JSON that ends no script element and is all ASCII: `<`, `>` and `&` are escapes."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _attribute(name: str, value: str | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
