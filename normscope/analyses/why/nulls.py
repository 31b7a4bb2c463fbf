"""Nulls of the claims: words shuffled across texts, and an untrained copy of the model."""

import copy
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from normscope.data.conversations import rewritten
from normscope.models.loading import Loaded, quiet

# As many as --samples keeps by default: of fewer texts than are kept, the choice of words moves verdicts.
NULL_TEXTS = 512
# So many characters of a text are kept: far more than any model reads tokens.
_CHARACTERS = 1 << 20
# An untrained copy takes the memory of the model once more.
_LARGEST = 1_000_000_000

# Chinese characters and Japanese kana stand without spaces: each is taken for a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


T = TypeVar("T")


class RecordedTexts(Iterator[str]):
    """The same texts; each that is not blank is put into `record`, by its place; conversations stay whole."""

    def __init__(self, texts: Iterable[str], record: dict[int, str], *, chat: bool = False) -> None:
        self._texts, self._record = iter(texts), record
        self._read = 0
        self._longest = None if chat else _CHARACTERS

    def __next__(self) -> str:
        text = next(self._texts)
        if isinstance(text, str) and text and not text.isspace():
            self._record[self._read] = text[: self._longest]
        self._read += 1
        return text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)


def spaced(items: Sequence[T], number: int = NULL_TEXTS) -> list[T]:
    """Choose at most so many items, evenly spaced."""
    places = torch.linspace(0, len(items) - 1, min(number, len(items))).round().long()
    return [items[i] for i in places.tolist()]


def shuffled(texts: Sequence[str], pool: Iterable[str], seed: int, *, chat: bool = False) -> list[str]:
    """Return the texts with as many other words, drawn without replacement from all texts in the `pool`.

    With `chat` the texts are conversations: the words of their messages are shuffled.
    """
    rewrite = rewritten if chat else _whole
    words: list[str] = []

    def collect(text: str) -> str:
        words.extend(_WORD.findall(text))
        return text

    for text in pool:
        rewrite(text, collect)
    generator = torch.Generator().manual_seed(seed)
    drawn = iter([words[i] for i in torch.randperm(len(words), generator=generator).tolist()])
    return [rewrite(text, lambda part: " ".join(next(drawn) for _ in _WORD.findall(part))) for text in texts]


def _whole(text: str, rewrite: Callable[[str], str]) -> str:
    return rewrite(text)


def untrained(loaded: Loaded, seed: int) -> Loaded | str:
    """Return a copy of a model with its initial weights; why there is none, where it cannot be made."""
    model: Any = loaded.model
    if not hasattr(type(model), "_from_config") or getattr(model, "config", None) is None:
        return "the class of the model cannot make an untrained copy from a configuration"
    if getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False):
        return "a model that is spread over devices, or quantized, has no untrained copy"
    number = sum(parameter.numel() for parameter in model.parameters())
    if number > _LARGEST:
        return f"an untrained copy of {number:,} parameters would take too much memory"
    place = next(model.parameters())
    devices = [place.device] if place.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        new: nn.Module = type(model)._from_config(copy.deepcopy(model.config), dtype=place.dtype)
    return Loaded(new.to(place.device), loaded.tokenizer, loaded.id, None, None, (), None)  # type: ignore[arg-type]
