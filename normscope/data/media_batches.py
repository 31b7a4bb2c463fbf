"""Batches of images and sounds, and texts beside them, made by the model's own processor."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from normscope.data.batching import Batching, require_number
from normscope.data.media_files import Inputs, read_audio, read_image
from normscope.errors import MediaError, NormscopeError, TextError, UsageError
from normscope.escaping import quoted, reason
from normscope.models.modality import AUDIO, IMAGE, TEXT, WORDS

if TYPE_CHECKING:
    from torch import Tensor

_Inputs = dict[str, "Tensor"]


class MediaBatches:
    """The batches of samples, each an image, a sound, or one of every kind that was given.

    A sample goes through the processor alone, so that no padding but the processor's own is made,
    and neighbours of one shape are run together. The samples keep their order.

    `texts` counts the samples handed out so far, `expected` is how many there are to be.
    """

    def __init__(self, given: Inputs, processor: Any, batching: Batching) -> None:
        _require_no_text_options(batching)
        self.texts = 0
        self._size = require_number(batching.batch_size, "images and sounds")
        files = {IMAGE: given.images, AUDIO: given.audio}
        columns: dict[str, Sequence[Any]] = {kind: files[kind] for kind in given.kinds if kind in files}
        if given.texts is not None:
            # One more than there can be, so that too many are seen without reading them all.
            columns[TEXT] = list(islice(given.texts, max(map(len, columns.values())) + 1))
        _require_equal_numbers(columns)
        self._columns = {kind: column[: batching.limit] for kind, column in columns.items()}
        self.expected = len(next(iter(self._columns.values())))
        self._encoder = _Encoder(processor, list(columns))

    def __iter__(self) -> Iterator[_Inputs]:
        held: list[_Inputs] = []
        for values in zip(*self._columns.values(), strict=True):
            sample = self._encoder.encode(dict(zip(self._columns, values, strict=True)))
            if held and (len(held) == self._size or not _alike(held[0], sample)):
                yield self._joined(held)
                held = []
            held.append(sample)
        if held:
            yield self._joined(held)

    def _joined(self, held: list[_Inputs]) -> _Inputs:
        import torch

        self.texts += len(held)
        if len(held) == 1:
            return held[0]
        return {name: torch.cat([sample[name] for sample in held]) for name in held[0]}


class _Encoder:
    """The processor, called for one sample at a time: an image's, a sound's, or one for several kinds."""

    def __init__(self, processor: Any, kinds: list[str]) -> None:
        self._processor = processor
        self._kinds = kinds
        names = {IMAGE: ("image_processor",), AUDIO: ("feature_extractor", "audio_processor")}
        if len(kinds) == 1:
            # Of a processor for several kinds, the part for this one.
            parts = (getattr(processor, name, None) for name in names[kinds[0]])
            self._processor = next((part for part in parts if part is not None), processor)
        holders = (self._processor, *(getattr(processor, name, None) for name in names[AUDIO]))
        self._rate = next((rate for rate in map(_rate_of, holders) if rate is not None), None)

    def encode(self, sample: dict[str, Any]) -> _Inputs:
        """Read the files of a sample and return the processor's tensors of it."""
        import torch

        # Read first: an error of a file is not the processor's.
        image = read_image(sample[IMAGE]) if IMAGE in sample else None
        wave = read_audio(sample[AUDIO], self._rate) if AUDIO in sample else None
        try:
            made = self._made(image, wave, sample.get(TEXT))
        except NormscopeError:
            raise
        except Exception as error:  # of foreign code, which fails in any way
            shown = " with ".join(_shown(value) for value in sample.values())
            name = type(self._processor).__name__
            expected = f"expected {' and '.join(WORDS[kind] for kind in sample)} that it takes"
            raise MediaError(f"{name} failed on {shown} ({reason(error)}); {expected}; check them") from error
        return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    def _made(self, image: Any, wave: Any, text: str | None) -> Any:
        rate = {} if wave is None or self._rate is None else {"sampling_rate": self._rate}
        if self._kinds == [IMAGE]:
            return self._processor(images=[image], return_tensors="pt")
        if self._kinds == [AUDIO]:
            # By place: extractors call the argument raw_speech, raw_audio or audio.
            return self._processor(wave, return_tensors="pt", **rate)
        given = {
            "text": None if text is None else [text],
            "images": None if image is None else [image],
            "audio": None if wave is None else [wave],
        }
        named = {name: value for name, value in given.items() if value is not None}
        return self._processor(**named, return_tensors="pt", **rate)


def _rate_of(holder: Any) -> int | None:
    rate = getattr(holder, "sampling_rate", None)
    return rate if isinstance(rate, int) else None


def _alike(one: _Inputs, other: _Inputs) -> bool:
    """Whether two samples can be stacked along their first axis."""
    return one.keys() == other.keys() and all(
        value.dim() > 0 and value.shape == other[name].shape for name, value in one.items()
    )


def _shown(value: Any) -> str:
    return quoted(os.fsdecode(value))


def _require_no_text_options(batching: Batching) -> None:
    for name, given in (
        ("max length", batching.max_length is not None),
        ("special tokens", batching.special_tokens == "exclude"),
    ):
        if given:
            raise UsageError(f"{name} was given with images or sounds; expected texts alone; leave it out")


def _require_equal_numbers(columns: dict[str, Sequence[Any]]) -> None:
    texts = columns.get(TEXT, ())
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"text at index {index} is {type(text).__name__}; expected str; convert it")
    most = max(len(column) for kind, column in columns.items() if kind != TEXT)
    if len({len(column) for column in columns.values()}) > 1:
        counts = {kind: str(len(column)) for kind, column in columns.items()}
        if len(texts) > most:
            counts[TEXT] = f"more than {most}"
        got = ", ".join(f"{count} of {WORDS[kind]}" for kind, count in counts.items())
        raise UsageError(f"got {got}; expected as many of each, to run side by side; add or leave out some")
