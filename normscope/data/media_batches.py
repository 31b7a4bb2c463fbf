"""Batches of images and sounds, also with texts, made by the model's own processor."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from normscope.data.batching import Batching, require_number
from normscope.data.media_files import Inputs, read_audio, read_image, shown
from normscope.errors import MediaError, NormscopeError, TextError, UsageError
from normscope.escaping import reason
from normscope.models.modality import AUDIO, IMAGE, TEXT, WORDS

if TYPE_CHECKING:
    from torch import Tensor

_Tensors = dict[str, "Tensor"]


class MediaBatches:
    """The batches of samples, each an image, a sound, or one input of every kind.

    The processor gets one sample at a time and so adds no padding between samples. Consecutive samples
    of the same shape form a batch. The samples keep their order.

    `texts` is the number of samples so far, `expected` that of all samples, `size` that of a full batch.
    `sources` are the places of the samples in the last batch.
    """

    def __init__(self, inputs: Inputs, processor: Any, batching: Batching) -> None:
        _require_no_text_options(batching)
        self.texts = 0
        self.sources: Sequence[int] = ()
        self.size = require_number(batching.batch_size, "images and sounds")
        files = {IMAGE: inputs.images, AUDIO: inputs.audio}
        columns: dict[str, Sequence[Any]] = {kind: files[kind] for kind in inputs.kinds if kind in files}
        if inputs.texts is not None:
            # One more than there are files: enough to notice that there are too many.
            columns[TEXT] = list(islice(inputs.texts, max(map(len, columns.values())) + 1))
        _require_equal_numbers(columns)
        self._columns = {kind: column[: batching.limit] for kind, column in columns.items()}
        self.expected = len(next(iter(self._columns.values())))
        self._encoder = _Encoder(processor, list(columns))

    def __iter__(self) -> Iterator[_Tensors]:
        samples: list[_Tensors] = []
        for values in zip(*self._columns.values(), strict=True):
            sample = self._encoder.encode(dict(zip(self._columns, values, strict=True)))
            if samples and (len(samples) == self.size or not _alike(samples[0], sample)):
                yield self._join(samples)
                samples = []
            samples.append(sample)
        if samples:
            yield self._join(samples)

    def _join(self, samples: list[_Tensors]) -> _Tensors:
        import torch

        self.sources = range(self.texts, self.texts + len(samples))
        self.texts += len(samples)
        if len(samples) == 1:
            return samples[0]
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


class _Encoder:
    """Calls the processor for one sample at a time: that for images, for sounds, or for several kinds."""

    def __init__(self, processor: Any, kinds: list[str]) -> None:
        self._processor = processor
        self._kinds = kinds
        names = {IMAGE: ("image_processor",), AUDIO: ("feature_extractor", "audio_processor")}
        if len(kinds) == 1:
            # A processor for several kinds has a part for each.
            parts = (getattr(processor, name, None) for name in names[kinds[0]])
            self._processor = next((part for part in parts if part is not None), processor)
        holders = (self._processor, *(getattr(processor, name, None) for name in names[AUDIO]))
        rates = (getattr(holder, "sampling_rate", None) for holder in holders)
        self._rate = next((rate for rate in rates if isinstance(rate, int)), None)

    def encode(self, sample: dict[str, Any]) -> _Tensors:
        """Read the files of a sample and return the processor's tensors."""
        import torch

        # Outside of the `try`, because an error of a file is not one of the processor.
        image = read_image(sample[IMAGE]) if IMAGE in sample else None
        wave = read_audio(sample[AUDIO], self._rate) if AUDIO in sample else None
        try:
            output = self._process(image, wave, sample.get(TEXT))
        except NormscopeError:
            raise
        except Exception as error:  # Foreign code may raise anything.
            files = " with ".join(shown(value) for value in sample.values())
            name = type(self._processor).__name__
            expected = f"expected {' and '.join(WORDS[kind] for kind in sample)} that it takes"
            raise MediaError(f"{name} failed on {files} ({reason(error)}); {expected}; check them") from error
        return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}

    def _process(self, image: Any, wave: Any, text: str | None) -> Any:
        rate = {} if wave is None or self._rate is None else {"sampling_rate": self._rate}
        if self._kinds == [IMAGE]:
            return self._processor(images=[image], return_tensors="pt")
        if self._kinds == [AUDIO]:
            # Positional: extractors name the argument raw_speech, raw_audio or audio.
            return self._processor(wave, return_tensors="pt", **rate)
        values = {
            "text": None if text is None else [text],
            "images": None if image is None else [image],
            "audio": None if wave is None else [wave],
        }
        named = {name: value for name, value in values.items() if value is not None}
        return self._processor(**named, return_tensors="pt", **rate)


def _alike(one: _Tensors, other: _Tensors) -> bool:
    """Whether two samples can be stacked along their first axis."""
    return one.keys() == other.keys() and all(
        value.dim() > 0 and value.shape == other[name].shape for name, value in one.items()
    )


def _require_no_text_options(batching: Batching) -> None:
    for name, is_set in (
        ("max length", batching.max_length is not None),
        ("special tokens", batching.special_tokens == "exclude"),
        ("exclude tokens", bool(batching.exclude_tokens)),
        ("skip first", batching.skip_first > 0),
        ("drop massive", batching.drop_massive),
        ("a chat template", batching.chat_template),
    ):
        if is_set:
            raise UsageError(f"{name} was given with images or sounds; expected texts alone; leave it out")


def _require_equal_numbers(columns: dict[str, Sequence[Any]]) -> None:
    texts = columns.get(TEXT, ())
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TextError(f"text at index {index} is {type(text).__name__}; expected str; convert it")
    files = max(len(column) for kind, column in columns.items() if kind != TEXT)
    if len({len(column) for column in columns.values()}) > 1:
        counts = {kind: str(len(column)) for kind, column in columns.items()}
        if len(texts) > files:
            counts[TEXT] = f"more than {files}"
        got = ", ".join(f"{count} of {WORDS[kind]}" for kind, count in counts.items())
        raise UsageError(f"got {got}; expected as many of each, to run side by side; add or leave out some")
