"""Makes strings from outside safe to show: no name or message can act on the terminal."""

import re
import textwrap

# What stands between a URL's scheme and its host, keys in its query, and tokens of the Hub.
_SECRETS = re.compile(
    r"(://)[^\s/]*(?=@)|([?&][\w-]*(?:token|key|signature|password)=)[^&\s'\"]+", re.IGNORECASE
)
_HUB_TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def printable(text: str) -> str:
    """Return `text` on one line, with every character that is not plainly visible escaped.

    Control characters, escape codes, line ends, and the invisible characters that turn the
    reading direction become `\\x1b`, `\\n`, `\\u202e`: shown, not obeyed.
    """
    return "".join(c if c.isprintable() else _escape(c) for c in _without_secrets(text))


def _without_secrets(text: str) -> str:
    """Return `text` with "..." for the passwords and keys of URLs, and for tokens of the Hub."""
    return _HUB_TOKENS.sub("hf_...", _SECRETS.sub(lambda match: f"{match[1] or match[2]}...", text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def quoted(text: object) -> str:
    """Return `text` between quotes, printable, without secrets, cut when it is long; None is none."""
    return "none" if text is None else printable(repr(_without_secrets(str(text))[:200]))


def grouped(count: int) -> str:
    """Write a count with thousands separated: 12,345."""
    return f"{count:,}"


def counted(count: int, what: str) -> str:
    """Write a count and what is counted: 1 text, 12,345 texts."""
    return f"{grouped(count)} {what}{'' if count == 1 else 's'}"


def reason(error: BaseException, secret: str | None = None) -> str:
    """Return the first line of an error that says something: short, printable, without the secret."""
    lines = [line.strip() for line in _without_secrets(str(error)).splitlines() if line.strip()]
    text = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if secret:
        text = text.replace(secret, "...")
    if not isinstance(error, OSError | ValueError | RuntimeError | ImportError) or not text:
        text = f"{type(error).__name__}: {text}"
    return printable(textwrap.shorten(text, 240, placeholder=" ...").rstrip(" .;:"))
