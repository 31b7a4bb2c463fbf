"""A dataset, local or of the Hub, as a stream of texts: what the `datasets` library can read."""

import gc
import logging
import os
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from normscope.errors import TextError, UsageError
from normscope.printable import quoted, reason

# Which of the library's readers a single file is for, and what else that has to know.
READERS: dict[str, tuple[str, dict[str, str]]] = {
    ".parquet": ("parquet", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".txt": ("text", {}),
    ".arrow": ("arrow", {}),
}
# Files that Dataset.save_to_disk and DatasetDict.save_to_disk leave.
SAVED = ("state.json", "dataset_dict.json")


class DatasetTexts(Iterator[str]):
    """The texts of one field of a dataset's split, each read as it is asked for; memory stays constant.

    `operator.length_hint` is how many are still to come where the dataset says, else 0. Raises TextError
    while iterating.
    """

    def __init__(self, name: str, rows: Any, field: str | None) -> None:
        self._name, self._rows, self._field = name, iter(rows), field
        weakref.finalize(self, _let_go, self._rows)
        self._number = 0
        splits = getattr(rows.info, "splits", None) or {}
        known = len(rows) if hasattr(rows, "__len__") else None
        self._length = known or getattr(splits.get(str(rows.split)), "num_examples", None) or 0
        self._ahead: list[str] = []

    def begin(self) -> bool:
        """Read the first text ahead, and tell whether there is any; the field is looked for in it."""
        for text in self:
            self._ahead.append(text)
            return True
        return False

    def __next__(self) -> str:
        if self._ahead:
            return self._ahead.pop()
        try:
            row = next(self._rows)
        except StopIteration:
            raise
        except Exception as error:  # Whatever the library meets in files and on networks.
            self._number += 1
            raise self._error(f"{reason(error)}; expected rows; check the dataset") from error
        self._number += 1
        if self._field is None or self._field not in row:
            self._field = self._found(row)
        text = row[self._field]
        if text is None:
            return ""
        if not isinstance(text, str):
            got = f"{quoted(self._field)} is {type(text).__name__}"
            raise self._error(f"{got}; expected a string; name another with --field")
        return text

    def __length_hint__(self) -> int:
        return max(0, self._length - self._number + len(self._ahead))

    def _found(self, row: dict[str, Any]) -> str:
        strings = [name for name, value in row.items() if isinstance(value, str)]
        if self._field is None and ("text" in row or len(strings) == 1):
            return "text" if "text" in row else strings[0]
        listed = ", ".join(map(quoted, strings or row))
        raise self._error(
            f"no field {quoted(self._field or 'text')}; expected one of {listed}; name one with --field"
        )

    def _error(self, what: str) -> TextError:
        return TextError(f"dataset {quoted(self._name)}, row {self._number}: {what}")


def _let_go(rows: Iterator[Any]) -> None:
    """End the reading of files before Python ends: threads of pyarrow that outlive it abort the process."""
    if isinstance(rows, Generator):
        rows.close()
        gc.collect()


def read_dataset(name: str, *, split: str | None = None, field: str | None = None) -> DatasetTexts:
    """Return the texts of a dataset: a Hub id, or a file or folder in a format that `datasets` reads.

    "ID:CONFIG" names one of several configurations. Of several splits one must be named; `field` is
    the one of the texts, by default `text`, or else the only one that holds strings. Nothing is
    downloaded whole. Raises UsageError when the extra `datasets` is not installed, or where a split must
    be named, and TextError where there is no such dataset or split.
    """
    splits = _splits(name, _library())
    if split is None and len(splits) > 1:
        raise UsageError(
            f"dataset {quoted(name)} has the splits {', '.join(map(quoted, splits))}; expected one; name it "
            "with --split"
        )
    chosen = next(iter(splits), None) if split is None else split
    if chosen not in splits:
        listed = ", ".join(map(quoted, splits)) or "none"
        raise TextError(
            f"dataset {quoted(name)} has no split {quoted(chosen)}; expected one of {listed}; name one"
        )
    return DatasetTexts(name, splits[chosen], field)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "--dataset needs the library datasets, which is not installed; expected it; run pip install "
            "'normscope[datasets]'"
        ) from error
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # It tells of each of its attempts.
    return datasets


def _splits(name: str, datasets: Any) -> dict[str, Any]:
    """Return what can be read by split."""
    try:
        found = _opened(name, datasets)
    except Exception as error:  # Its own errors, the Hub's, the network's, and those of its file readers.
        why = str(error) if isinstance(error, TextError) else reason(error)
        raise TextError(
            f"cannot read the dataset {quoted(name)} ({why}); expected a Hub id, or a file or "
            "folder that the library datasets reads; check the name and the network"
        ) from error
    return found if isinstance(found, dict) else {str(found.split or "train"): found}


def _opened(name: str, datasets: Any) -> Any:
    path = Path(name)
    if path.is_dir() and any((path / file).exists() for file in SAVED):
        return datasets.load_from_disk(name)
    if path.is_file():
        reader, options = READERS.get(Path(name.lower().removesuffix(".gz")).suffix, ("", {}))
        if not reader:
            raise TextError(f"its name ends in none of {', '.join(READERS)}")
        return datasets.load_dataset(reader, data_files=os.fspath(path), streaming=True, **options)
    if not path.exists() and _is_path(name):
        raise TextError("there is no such file or folder")
    place, _, config = (name, "", "") if path.exists() else name.partition(":")
    return datasets.load_dataset(place, config or None, streaming=True)


def _is_path(name: str) -> bool:
    """Whether a name cannot be a Hub id, ID or OWNER/ID, or is a file's in a folder that there is."""
    path = Path(name)
    is_file = Path(name.lower().removesuffix(".gz")).suffix in READERS and path.parent.is_dir()
    return (
        is_file or path.is_absolute() or name.startswith((".", "~")) or name.partition(":")[0].count("/") > 1
    )
