"""Errors that normscope raises on purpose; any other exception is a bug.

    NormscopeError
    ├── UsageError     the call itself cannot be right: exit code 2
    ├── TextError      texts that cannot be read or hold nothing to measure
    ├── MediaError     images or sounds that cannot be read
    ├── ModelError     a model, tokenizer or processor that cannot be found or loaded
    ├── RunError       a model that loaded but could not be run on what it was given
    │   ├── OutOfMemoryError  for want of memory: a smaller batch may do
    │   └── CountingError     for want of memory where a batch was being counted: in part it may have been
    └── ReportError    a report file that cannot be read or written
        └── SaveError  a file that belongs to a report, which the error holds

A message says what was got, what was expected and what to do next, on one line.
"""

from typing import Any, ClassVar


class NormscopeError(Exception):
    """Base of the family; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


class UsageError(NormscopeError):
    """Options or arguments that contradict each other or lie outside their range."""

    exit_code: ClassVar[int] = 2


class TextError(NormscopeError):
    """A text source that cannot be read, or that holds no text."""


class MediaError(NormscopeError):
    """An image or a sound that cannot be read, or that the model's processor does not take."""


class ModelError(NormscopeError):
    """A model, tokenizer or processor that cannot be found, trusted or loaded."""


class RunError(NormscopeError):
    """A loaded model that could not be run on what it was given."""


class OutOfMemoryError(RunError):
    """A batch for which memory did not suffice."""


class CountingError(RunError):
    """A batch that some layers have counted, one perhaps in part, when memory did not suffice."""


class ReportError(NormscopeError):
    """A report that cannot be read or written."""


class SaveError(ReportError):
    """A file that belongs to a report cannot be written; the `report` itself is not lost."""

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report


def install(extra: str) -> str:
    """Return advice for a package that an extra of normscope brings."""
    return f"run pip install '.[{extra}]' in a clone of normscope"
