"""Strings from outside, made safe to show: a name or a message never acts on the terminal."""


def printable(text: str) -> str:
    """Return `text` on one line, with every character that is not plainly visible escaped.

    Control characters, escape codes, line ends, and the invisible characters that turn the
    reading direction become `\\x1b`, `\\n`, `\\u202e`: shown, not obeyed.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
