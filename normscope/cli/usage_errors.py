"""Rewords usage errors of typer as one line: what was got, what was expected, what to do next."""

import re

import typer

# The parent of what typer raises: it has no public name of its own.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_CHOICE = re.compile(r"(?P<got>'.*') is not one of (?P<choices>'.*')\.?$", re.DOTALL)
# What is expected, by a part of what typer, by itself or by pydantic, says.
_EXPECTED = {
    "valid int": "a whole number",
    "valid number": "a number",
    "valid float": "a number",
}
_BOUND = re.compile(r"(greater than or equal to|not in the range x>=) ?(?P<least>-?\d+)|x>=(?P<other>-?\d+)")


def one_line(error: Exception) -> str:
    """Return the line for an error of typer's parser."""
    said = str(getattr(error, "message", error))
    name = _name(error)
    if name is not None and (choice := _CHOICE.search(said)):
        choices = re.findall(r"'(.*?)'", choice["choices"])
        return f"{name} is {choice['got']}; expected {', '.join(choices[:-1])} or {choices[-1]}; pick one"
    if name is not None and (expected := _expected(said)):
        return f"{name} is {_got(error, said)}; expected {expected}; change it"
    whole = str(error.format_message()) if hasattr(error, "format_message") else said
    return f"{whole[:1].lower()}{whole[1:].rstrip('.')}; {_help(error)}"


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


def _expected(said: str) -> str | None:
    if bound := _BOUND.search(said):
        return f"{bound['least'] or bound['other']} or more"
    return next((words for part, words in _EXPECTED.items() if part in said), None)


def _got(error: Exception, said: str) -> str:
    """What was given: pydantic keeps it in the cause, typer itself writes it first."""
    read = getattr(error.__cause__, "errors", None)
    if read is not None:
        return repr(read()[0]["input"])
    return repr(said.partition(" is not")[0].strip("'"))


def _help(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context else "see normscope --help"
