"""Options that choose which tokens count, and the parsers of their values."""

import re
from typing import Annotated

import typer

from normscope.errors import UsageError
from normscope.escaping import quoted

ExcludeTokens = Annotated[
    str | None,
    typer.Option(
        "--exclude-tokens",
        metavar="ID|TEXT,...",
        help="Leave these tokens out of the statistics: ids, or texts of one token.",
    ),
]
SkipFirst = Annotated[
    int,
    typer.Option(
        "--skip-first", metavar="K", help="Leave the first K positions of each text out of the statistics."
    ),
]
DropMassive = Annotated[
    bool,
    typer.Option(
        "--drop-massive",
        help="Leave tokens with a massive activation at any layer out; runs each batch twice.",
    ),
]
ChatTemplate = Annotated[
    bool,
    typer.Option(
        "--chat-template",
        help="Read conversations, lists of messages, and write them with the model's chat template.",
    ),
]
Roles = Annotated[
    str | None,
    typer.Option(
        "--roles",
        metavar="ROLE,...",
        help="Count only the tokens of messages with these roles, such as assistant.",
    ),
]


def names(name: str, text: str | None) -> tuple[str, ...]:
    """Read words with commas between them; UsageError if one is empty."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(parts):
        raise UsageError(f"{name} is {quoted(text)}; expected words with commas between them; change it")
    return tuple(parts)


def token_names(name: str, text: str | None) -> tuple[int | str, ...]:
    """Read token ids and texts of tokens with commas between them; a text may begin or end in spaces."""
    parts = text.split(",") if text is not None else []
    if not all(parts):
        expected = "token ids or texts of one token, with commas between them"
        raise UsageError(f"{name} is {quoted(text)}; expected {expected}; change it")
    return tuple(int(part) if re.fullmatch(r" *-?\d{1,18} *", part, re.ASCII) else part for part in parts)
