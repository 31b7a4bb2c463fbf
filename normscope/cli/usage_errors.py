"""Rewords usage errors of typer as one line: the input, the expected values, the next step."""

import re

import typer

# The parent of what typer raises: it has no public name of its own.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_CHOICE = re.compile(r"(?P<input>'.*') is not one of (?P<choices>'.*')\.?$", re.DOTALL)
# The expected values, by a part of the message of typer or pydantic.
_EXPECTED = {"valid int": "a whole number", "valid number": "a number", "valid float": "a number"}
_BOUND = re.compile(
    r"(greater than or equal to|not in the range x>=) ?(?P<minimum>-?\d+)|x>=(?P<bound>-?\d+)"
)


def one_line(error: Exception) -> str:
    """Return the line for an error of typer's parser."""
    message = str(getattr(error, "message", error))
    name = _name(error)
    if name is not None and (choice := _CHOICE.search(message)):
        choices = re.findall(r"'(.*?)'", choice["choices"])
        return f"{name} is {choice['input']}; expected {', '.join(choices[:-1])} or {choices[-1]}; pick one"
    if name is not None and (expected := _expected(message)):
        return f"{name} is {_input(error, message)}; expected {expected}; change it"
    sentence = str(error.format_message()) if hasattr(error, "format_message") else message
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "normscope"
    return f"{sentence[:1].lower()}{sentence[1:].rstrip('.')}; see {command} --help"


def is_help(error: Exception) -> bool:
    """Whether the error only carries the help that a command without arguments shows."""
    return type(error).__name__ == "NoArgsIsHelpError"


def _name(error: Exception) -> str | None:
    """Return the name of the wrong option or argument, None if the error is not about a single one."""
    parameter = getattr(error, "param", None)
    if parameter is None or "Missing" in type(error).__name__:
        return None
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return str(max(parameter.opts, key=len))


def _expected(message: str) -> str | None:
    if bound := _BOUND.search(message):
        return f"{bound['minimum'] or bound['bound']} or more"
    return next((words for part, words in _EXPECTED.items() if part in message), None)


def _input(error: Exception, message: str) -> str:
    """Return the wrong input: pydantic keeps it in the cause, typer begins its message with it."""
    errors = getattr(error.__cause__, "errors", None)
    if errors is not None:
        return repr(errors()[0]["input"])
    return repr(message.partition(" is not")[0].strip("'"))
