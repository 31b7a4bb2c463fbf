"""Safetensors files with a header, written whole or not at all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from normscope.errors import ReportError
from normscope.escaping import quoted, reason
from normscope.results.atomic_write import write_with


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], header: Mapping[str, str]
) -> None:
    """Write the tensors and the strings of the header to `path`; ReportError when that cannot be done."""

    def write(target: Path) -> None:
        try:
            save_file(dict(tensors), target, metadata=dict(header))
        except SafetensorError as error:  # also for a full disk, which safetensors does not raise as OSError
            raise OSError(str(error).rpartition("I/O error: ")[2]) from error

    write_with(path, write)


Made = TypeVar("Made")


class FileKind(NamedTuple):
    """A kind of file: its `name` in a folder, its `schema`, `what` messages call it, and what `wrote` it."""

    name: str
    schema: str
    what: str
    wrote: str

    def write(
        self, folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, str]
    ) -> Path:
        """Write the file into a folder, which is made if missing; ReportError if it cannot be written."""
        path = Path(folder) / self.name
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            got = f"cannot write to the folder {quoted(folder)} ({reason(error)})"
            raise ReportError(f"{got}; expected a folder that can be written; name another") from error
        header = {
            key: value.encode("utf-8", "backslashreplace").decode("utf-8") for key, value in about.items()
        }
        contiguous = {name: values.contiguous() for name, values in tensors.items()}
        save_tensors(contiguous, path, {"schema": self.schema, **header})
        return path

    def read(
        self, folder: str | os.PathLike[str], make: Callable[[dict[str, Tensor], dict[str, Any]], Made]
    ) -> Made:
        """Return what `make` returns for the tensors and the header of a file, or of the file in a folder.

        Raises ReportError if there is no file, it is of another kind, or `make` finds something missing
        or wrong.
        """
        path = Path(folder)
        path = path / self.name if path.is_dir() else path
        try:
            with safe_open(path, framework="pt") as file:
                header: dict[str, Any] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            got = f"cannot read a {self.what} from {quoted(folder)} ({reason(error)})"
            raise ReportError(f"{got}; expected what {self.wrote} wrote; check the path") from error
        if header.get("schema") != self.schema:
            got = f"{quoted(folder)} is not a {self.what}: schema is {header.get('schema')!r}"
            raise ReportError(f"{got}; expected {self.schema!r}")
        try:
            return make(tensors, header)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            got = f"{quoted(path)} is damaged ({type(error).__name__}: {reason(error)})"
            raise ReportError(f"{got}; expected what {self.wrote} wrote; write it again") from error
