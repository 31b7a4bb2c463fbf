"""The command line run in this process, held to what every ending promises."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from normscope.cli.app import app

CODES = {0, 1, 2, 3}
# Made once: typer's own runner makes it anew for every call, which takes longer than most do.
COMMAND: Any = get_command(app)


def ended(arguments: Sequence[object], input: bytes | str | None = None) -> Result:
    """Run the command line; whatever it is given, it ends by an exit code and with at most one error line.

    Any exception but the exit itself is raised here, so that a test shows its traceback.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", lambda app: COMMAND)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in CODES
    errors = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
    assert len(errors) == (result.exit_code in (1, 2)), result.stderr
    assert all(line.isprintable() for line in result.stderr.split("\n")), "nothing that drives a terminal"
    return result


def error_of(arguments: Sequence[object], input: bytes | str | None = None) -> str:
    """Run the command line, which must fail, and return what it says of that."""
    result = ended(arguments, input)
    assert result.exit_code in (1, 2)
    line = next(line for line in result.stderr.split("\n") if line.startswith("error: "))
    assert ";" in line, "what was got, and what to do next"
    assert result.stdout == ""
    return re.sub(r"^error: ", "", line)


def left_in(folder: Path) -> list[str]:
    """Name the files in a folder: half of one would show."""
    return sorted(path.name for path in folder.iterdir())
