"""Datasets, local or from the Hub, as a stream of texts; read by the `datasets` library."""

import gc
import logging
import os
import weakref
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from normscope.errors import TextError, UsageError
from normscope.escaping import quoted, reason

# Which of the library's readers a single file is for, and what else that has to know.
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
# How often a read is tried anew where a server has failed, each time for half a minute: then the run ends.
_TRIES = 5
# Files that Dataset.save_to_disk and DatasetDict.save_to_disk leave.
SAVED = ("state.json", "dataset_dict.json")
# Files of a folder that say which files a dataset is of.
_CARDS = ("README.md", ".huggingface.yaml")


class DatasetTexts(Iterator[str]):
    """The texts of one field of a dataset's split, each read as it is asked for; memory stays constant.

    `operator.length_hint` is how many are still to come where the dataset says, else 0. Raises TextError
    while iterating.
    """

    def __init__(self, name: str, rows: Any, field: str | None, token: str | None = None) -> None:
        self._name, self._rows, self._field, self._token = name, iter(rows), field, token
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
            got = reason(error, self._token)
            raise self._error(f"{got}; expected rows; check the dataset and the network") from error
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


def read_dataset(
    name: str,
    *,
    split: str | None = None,
    field: str | None = None,
    token: str | None = None,
    local: bool = False,
) -> DatasetTexts:
    """Return the texts of a dataset: a Hub id, or a file or folder in a format that `datasets` reads.

    "ID:CONFIG" names one of several configurations. Of several splits one must be named; `field` is
    the one of the texts, by default `text`, or else the only one that holds strings. `token` is the Hub's,
    by default the one logged in with. Nothing is downloaded whole, and no code of a dataset is run. A local
    one that leads to the network is refused, and with `local` one of the Hub, too. Raises UsageError when
    the extra `datasets` is not installed, or where a split or a configuration must be named, and TextError
    where there is no such dataset, configuration or split.
    """
    if local and not Path(name).exists():
        raise TextError(
            f"dataset {quoted(name)} is no file or folder here; expected one, as --local-files-only was "
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
    return DatasetTexts(name, splits[chosen], field, token)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "--dataset needs the library datasets, which is not installed; expected it; run pip install "
            "'normscope[datasets]'"
        ) from error
    datasets.disable_progress_bars()
    # The library tells the Hub of every dataset it opens, local ones too.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # What is wrong is raised, too.
    datasets.logging.set_verbosity(logging.CRITICAL)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    return datasets


def _splits(name: str, datasets: Any, token: str | None) -> dict[str, Any]:
    """Return what can be read by split."""
    try:
        found = _opened(name, datasets, token)
    except Exception as error:  # Its own errors, the Hub's, the network's, and those of its file readers.
        raise _refused(name, error, datasets, token) from error
    return found if isinstance(found, dict) else {str(found.split or "train"): found}


def _opened(name: str, datasets: Any, token: str | None) -> Any:
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
    place, config = _place_and_config(name)
    if path.is_dir() and (url := _first_url(path)) is not None:
        raise ValueError(f"its files are not here but at {url}")
    if not path.exists() and place in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        # It would read every file of the folder one is in.
        raise ValueError("that is a format of the library's")
    return datasets.load_dataset(place, config, streaming=True, token=token)


def _first_url(folder: Path) -> str | None:
    """Return the first URL that the card of a dataset names as a file of it."""
    from huggingface_hub import DatasetCard

    for card in _CARDS:
        text = (folder / card).read_text(encoding="utf-8") if (folder / card).is_file() else ""
        if text and not card.endswith(".md"):
            text = f"---\n{text}\n---\n"
        made: Any = DatasetCard(text, ignore_metadata_errors=True).data if text else {}
        data = dict(made.to_dict()) if text else {}
        for found in _strings([data.get("configs"), data.get("data_files")]):
            if "://" in found:
                return found
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _place_and_config(name: str) -> tuple[str, str | None]:
    if Path(name).exists():
        return name, None
    scheme, mark, rest = name.rpartition("://")
    place, _, config = rest.partition(":")
    return scheme + mark + place, config or None


def _refused(name: str, error: Exception, datasets: Any, token: str | None) -> TextError | UsageError:
    """Say why a dataset could not be opened, and what would do."""
    got, shown = str(error), f"dataset {quoted(name)}"
    if isinstance(error, StopIteration):  # of a file that is empty
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
    place, config = _place_and_config(name)
    try:
        listed = _listed(datasets.get_dataset_config_names(place, token=token))
    except Exception:  # Whatever the library meets: it has named what is wrong already.
        listed = "those on its page"
    if config is None:
        got = f"dataset {quoted(name)} has the configurations {listed}"
        return UsageError(f"{got}; expected one; name it as in --dataset {quoted(place + ':CONFIG')}")
    return TextError(
        f"dataset {quoted(place)} has no configuration {quoted(config)}; expected one of {listed}; name one"
    )


def _is_path(name: str) -> bool:
    """Whether a name cannot be a Hub id, ID or OWNER/ID, or is a file's in a folder that there is."""
    path = Path(name)
    is_file = Path(name.lower().removesuffix(".gz")).suffix in _READERS and path.parent.is_dir()
    return (
        is_file or path.is_absolute() or name.startswith((".", "~")) or name.partition(":")[0].count("/") > 1
    )
