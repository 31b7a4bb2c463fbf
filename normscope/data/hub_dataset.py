"""Datasets, local or from the Hub, as a stream of texts that the library `datasets` reads."""

import gc
import logging
import os
import weakref
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from normscope.data.conversations import EXPECTED, MESSAGES, as_text
from normscope.errors import TextError, UsageError, install
from normscope.escaping import quoted, reason

# The library's reader for each suffix of a file, and its options.
_READERS: dict[str, tuple[str, dict[str, str]]] = {
    ".parquet": ("parquet", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".txt": ("text", {}),
    ".arrow": ("arrow", {}),
}
# Repeated reads when a server fails, half a minute each; after these the run ends.
_TRIES = 5
# Files that Dataset.save_to_disk and DatasetDict.save_to_disk write.
SAVED = ("state.json", "dataset_dict.json")
# Files of a folder that list the files of a dataset.
_CARDS = ("README.md", ".huggingface.yaml")


class DatasetTexts(Iterator[str]):
    """The texts of one field of a dataset's split, read one by one in constant memory.

    `operator.length_hint` is the number of texts left if the dataset tells its size, else 0. Raises
    TextError while iterating.
    """

    def __init__(
        self, name: str, rows: Any, field: str | None, token: str | None = None, *, chat: bool = False
    ) -> None:
        self._name, self._rows, self._token = name, iter(rows), token
        self._chat, self._field = chat, field or (MESSAGES if chat else None)
        weakref.finalize(self, _close, self._rows)
        self._number = 0
        splits = getattr(rows.info, "splits", None) or {}
        length = len(rows) if hasattr(rows, "__len__") else None
        self._length = length or getattr(splits.get(str(rows.split)), "num_examples", None) or 0
        self._ahead: list[str] = []

    def begin(self) -> bool:
        """Read the first text ahead, which finds the field, and return whether there is any text."""
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
        except Exception as error:  # The library, its files and the network may raise anything.
            self._number += 1
            got = reason(error, self._token)
            raise self._error(f"{got}; expected rows; check the dataset and the network") from error
        self._number += 1
        if self._field is None or self._field not in row:
            self._field = self._field_in(row)
        text = row[self._field]
        if text is None:
            return ""
        text = as_text(text) or text if self._chat else text
        if not isinstance(text, str):
            got = f"{quoted(self._field)} is {type(text).__name__}"
            expected = EXPECTED if self._chat else "expected a string"
            raise self._error(f"{got}; {expected}; name another with --field")
        return text

    def __length_hint__(self) -> int:
        return max(0, self._length - self._number + len(self._ahead))

    def _field_in(self, row: dict[str, Any]) -> str:
        kinds = str | list if self._chat else str
        strings = [name for name, value in row.items() if isinstance(value, kinds)]
        if self._field is None and ("text" in row or len(strings) == 1):
            return "text" if "text" in row else strings[0]
        listed = ", ".join(map(quoted, strings or row))
        raise self._error(
            f"no field {quoted(self._field or 'text')}; expected one of {listed}; name one with --field"
        )

    def _error(self, what: str) -> TextError:
        return TextError(f"dataset {quoted(self._name)}, row {self._number}: {what}")


def _close(rows: Iterator[Any]) -> None:
    """End the reading of files before Python ends: threads of pyarrow that live longer abort the process."""
    if isinstance(rows, Generator):
        rows.close()
        gc.collect()


def read_dataset(
    name: str,
    *,
    split: str | None = None,
    field: str | None = None,
    token: str | None = None,
    local: bool = False,
    chat: bool = False,
) -> DatasetTexts:
    """Return the texts of a dataset: a Hub id, or a file or folder in a format that `datasets` reads.

    "ID:CONFIG" names one of several configurations. `split` must name one of several splits. `field` holds
    the texts: by default `text`, or else the only field with strings. With `chat` it holds conversations, and
    is `messages` by default. `token` is for the Hub, by default that of the login. No dataset is downloaded
    as a whole, and no code of a dataset runs. A local dataset that refers to the network is refused, and with
    `local` also one of the Hub. Raises UsageError if the extra `datasets` is not installed, or a split or a
    configuration must be named, and TextError if the dataset, configuration or split does not exist.
    """
    if local and not Path(name).exists():
        raise TextError(
            f"dataset {quoted(name)} is not a file or folder here; expected one, as --local-files-only was "
            "given; download it first, or leave the option out"
        )
    splits = _splits(name, _library(), token)
    if split is None and len(splits) > 1:
        raise UsageError(
            f"dataset {quoted(name)} has the splits {_listed(splits)}; expected one; name it with --split"
        )
    chosen = next(iter(splits), None) if split is None else split
    if chosen not in splits:
        listed = _listed(splits) or "none"
        raise TextError(
            f"dataset {quoted(name)} has no split {quoted(chosen)}; expected one of {listed}; name one"
        )
    return DatasetTexts(name, splits[chosen], field, token, chat=chat)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "--dataset needs the library datasets, which is not installed; expected it; "
            f"{install('datasets')}"
        ) from error
    datasets.disable_progress_bars()
    # The library reports every dataset that it opens to the Hub, also local ones.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # Its errors are raised in addition to being logged.
    datasets.logging.set_verbosity(logging.CRITICAL)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    return datasets


def _splits(name: str, datasets: Any, token: str | None) -> dict[str, Any]:
    """Open a dataset and return its splits by name."""
    try:
        dataset = _open(name, datasets, token)
    except Exception as error:  # Errors of the library, the Hub, the network, and the file readers.
        raise _explained(name, error, datasets, token) from error
    return dataset if isinstance(dataset, dict) else {str(dataset.split or "train"): dataset}


def _open(name: str, datasets: Any, token: str | None) -> Any:
    path = Path(name)
    if path.is_dir() and any((path / file).exists() for file in SAVED):
        return datasets.load_from_disk(name)
    if path.is_file():
        reader, options = _READERS.get(Path(name.lower().removesuffix(".gz")).suffix, ("", {}))
        if not reader:
            raise ValueError(f"its name ends in none of {', '.join(_READERS)}")
        return datasets.load_dataset(reader, data_files=os.fspath(path), streaming=True, **options)
    if not path.exists() and _is_path(name):
        raise ValueError("there is no such file or folder")
    dataset, config = _dataset_and_config(name)
    if path.is_dir() and (url := _first_url(path)) is not None:
        raise ValueError(f"its files are not here but at {url}")
    if not path.exists() and dataset in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        # The library would read every file of the current folder.
        raise ValueError("that is a format of the library's")
    return datasets.load_dataset(dataset, config, streaming=True, token=token)


def _first_url(folder: Path) -> str | None:
    """Return the first URL among the files that the card of a dataset lists."""
    from huggingface_hub import DatasetCard

    for card in _CARDS:
        text = (folder / card).read_text(encoding="utf-8") if (folder / card).is_file() else ""
        if text and not card.endswith(".md"):
            text = f"---\n{text}\n---\n"
        header: Any = DatasetCard(text, ignore_metadata_errors=True).data if text else {}
        data = dict(header.to_dict()) if text else {}
        for file in _strings([data.get("configs"), data.get("data_files")]):
            if "://" in file:
                return file
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _dataset_and_config(name: str) -> tuple[str, str | None]:
    if Path(name).exists():
        return name, None
    scheme, mark, rest = name.rpartition("://")
    dataset, _, config = rest.partition(":")
    return scheme + mark + dataset, config or None


def _explained(name: str, error: Exception, datasets: Any, token: str | None) -> TextError | UsageError:
    """Return the error that explains why a dataset could not be opened."""
    got, shown = str(error), f"dataset {quoted(name)}"
    if isinstance(error, StopIteration):  # The file is empty.
        return TextError(f"the {shown} has no rows; expected some; name another file")
    if "gated" in got:
        return TextError(
            f"{shown} is gated on the Hub; expected a token of an account that may read it; ask for access "
            "on its page, then log in with 'hf auth login' or pass --token"
        )
    if "scripts are no longer supported" in got:
        return TextError(
            f"{shown} is made by a script of its own, which is never run; expected files of data; name a "
            "dataset that has them, in parquet for example"
        )
    if "Config name is missing" in got or "BuilderConfig" in got:
        return _without_config(name, datasets, token)
    return TextError(
        f"cannot read the {shown} ({reason(error, token)}); expected a Hub id, or a file or "
        "folder that the library datasets reads; check the name and the network"
    )


def _without_config(name: str, datasets: Any, token: str | None) -> TextError | UsageError:
    dataset, config = _dataset_and_config(name)
    try:
        listed = _listed(datasets.get_dataset_config_names(dataset, token=token))
    except Exception:  # The error that led here explains enough.
        listed = "those on its page"
    if config is None:
        got = f"dataset {quoted(name)} has the configurations {listed}"
        return UsageError(f"{got}; expected one; name it as in --dataset {quoted(dataset + ':CONFIG')}")
    return TextError(
        f"dataset {quoted(dataset)} has no configuration {quoted(config)}; expected one of {listed}; name one"
    )


def _is_path(name: str) -> bool:
    """Whether a name cannot be a Hub id (ID or OWNER/ID), or names a data file in an existing folder."""
    path = Path(name)
    is_file = Path(name.lower().removesuffix(".gz")).suffix in _READERS and path.parent.is_dir()
    return (
        is_file or path.is_absolute() or name.startswith((".", "~")) or name.partition(":")[0].count("/") > 1
    )
