"""Words fit to show: strings from outside, which never act on the terminal, and counts with their nouns."""

import textwrap


def printable(text: str) -> str:
    """Return `text` on one line, with every character that is not plainly visible escaped.

    Control characters, escape codes, line ends, and the invisible characters that turn the
    reading direction become `\\x1b`, `\\n`, `\\u202e`: shown, not obeyed.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def quoted(text: object) -> str:
    """Return `text` between quotes, printable, and cut when it is long; None is none."""
    return "none" if text is None else printable(repr(str(text)[:200]))


def grouped(count: int) -> str:
    """Write a count with thousands separated: 12,345."""
    return f"{count:,}"


def counted(count: int, what: str) -> str:
    """Write a count and what is counted: 1 text, 12,345 texts."""
    return f"{grouped(count)} {what}{'' if count == 1 else 's'}"


def reason(error: BaseException, secret: str | None = None) -> str:
    """Return the first line of an error that says something: short, printable, without the secret."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if secret:
        text = text.replace(secret, "...")
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError) or not text:
        text = f"{type(error).__name__}: {text}"
    return printable(textwrap.shorten(text, 240, placeholder=" ...").rstrip(" .;:"))
