"""Tensors and a header in one file: safetensors, written whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from normscope.files import write_with


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], header: Mapping[str, str]
) -> None:
    """Write the tensors and the strings of the header to `path`; ReportError when that cannot be done."""

    def write(target: Path) -> None:
        try:
            save_file(dict(tensors), target, metadata=dict(header))
        except SafetensorError as error:  # a full disk, too, which is no OSError to safetensors
            raise OSError(str(error).rpartition("I/O error: ")[2]) from error

    write_with(path, write)
