"""Nulls of the claims: words shuffled across texts, and an untrained copy of the model."""

import copy
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from normscope.capture.text_sample import Choice
from normscope.models.loading import Loaded, quiet

# A null is an average over texts: so many are enough.
NULL_TEXTS = 256
# So many characters of a text are kept: far more than any model reads tokens.
_CHARACTERS = 1 << 20
# An untrained copy takes the memory of the model once more.
_LARGEST = 1_000_000_000

# Chinese characters and Japanese kana stand without spaces: each is taken for a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


class SampledTexts(Iterator[str]):
    """The same texts; of those that a random sample chooses, `kept` has the text, by its place.

    It chooses as `text_sample.TextSample` does with the same seed.
    """

    def __init__(self, texts: Iterable[str], samples: int, seed: int) -> None:
        self._texts, self._choice = iter(texts), Choice(samples, seed)
        self._read = 0
        self.kept: dict[int, str] = {}

    def __next__(self) -> str:
        text = next(self._texts)
        source, self._read = self._read, self._read + 1
        if isinstance(text, str) and text and not text.isspace():
            self._choice.offer([source])
            self.kept[source] = text[:_CHARACTERS]
            if len(self.kept) > len(self._choice.slots):
                self.kept = {place: self.kept[place] for place in self.kept if place in self._choice.slots}
        return text

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)


def chosen(sources: Sequence[int]) -> list[int]:
    """Choose at most NULL_TEXTS texts, evenly spaced over the corpus."""
    spaced = torch.linspace(0, len(sources) - 1, min(NULL_TEXTS, len(sources))).round().long()
    return [sources[i] for i in spaced.tolist()]


def shuffled(texts: Sequence[str], pool: Iterable[str], seed: int) -> list[str]:
    """Return the texts with as many other words, drawn without replacement from all texts in the `pool`."""
    words = [word for text in pool for word in _WORD.findall(text)]
    generator = torch.Generator().manual_seed(seed)
    drawn = iter([words[i] for i in torch.randperm(len(words), generator=generator).tolist()])
    return [" ".join(next(drawn) for _ in _WORD.findall(text)) for text in texts]


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
