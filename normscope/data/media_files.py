"""Image and audio files: checked before the run, then decoded one at a time."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.errors import MediaError, UsageError, install
from normscope.escaping import quoted, reason
from normscope.models.modality import AUDIO, IMAGE, TEXT

if TYPE_CHECKING:
    from PIL.Image import Image

FilePath = str | os.PathLike[str]
_Waveform = np.ndarray[Any, np.dtype[np.float32]]

_IMAGES = "an image that pillow reads, such as .png or .jpg"
_SOUNDS = "a sound that soundfile reads, such as .wav or .flac"


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run: texts, image files, audio files, or several of these kinds side by side.

    Raises MediaError, before a model is loaded, for a file that does not exist or whose reader is not
    installed, and UsageError without any inputs.
    """

    texts: Iterable[str] | None = None
    images: Sequence[FilePath] = ()
    audio: Sequence[FilePath] = ()

    def __post_init__(self) -> None:
        _require_several("texts", self.texts)
        _require_several("images", self.images)
        _require_several("audio", self.audio)
        if not self.kinds:
            raise UsageError("there is nothing to feed; expected texts, images or audio; give some")
        for files, expected in ((self.images, _IMAGES), (self.audio, _SOUNDS)):
            for file in files:
                _require_file(file, expected)
        if self.images:
            _require_reader("PIL", "pillow", IMAGE)
        if self.audio:
            _require_reader("soundfile", "soundfile", AUDIO)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of inputs; a stream of texts is one even if it turns out to be empty."""
        present = {TEXT: self.texts is not None, IMAGE: bool(self.images), AUDIO: bool(self.audio)}
        return tuple(kind for kind, is_present in present.items() if is_present)


def read_image(path: FilePath) -> "Image":
    """Read an image upright, in RGB with 8 bits per channel, with white behind transparent parts.

    Of 16 bits per channel the upper 8 are used. Raises MediaError for a file that cannot be read or holds
    several pictures.
    """
    with _as_model_errors(path, _IMAGES):
        from PIL import Image, ImageOps

        with Image.open(os.fspath(path)) as file:
            # A telephone's .jpg may hold a second picture (MPO): the first one is the photograph.
            frames = getattr(file, "n_frames", 1) if file.format != "MPO" else 1
            if frames > 1:
                got = f"{shown(path)} holds {frames} pictures"
                raise MediaError(f"{got}; expected one; save the one you mean as a file of its own")
            return _rgb(ImageOps.exif_transpose(file), path)


def read_audio(path: FilePath, rate: int | None) -> _Waveform:
    """Read a sound as the mean of its channels, in [-1, 1] with `rate` samples per second, (N,).

    None keeps the file's own rate. Raises MediaError for a file that cannot be read, holds no sample, or
    has another rate while soxr, which resamples, is not installed.
    """
    with _as_model_errors(path, _SOUNDS):
        import soundfile

        channels, own_rate = soundfile.read(os.fspath(path), dtype="float32", always_2d=True)  # (N, channels)
    if not len(channels):
        raise MediaError(f"{shown(path)} holds no sound; expected a sample or more; leave it out")
    mono: _Waveform = channels.mean(axis=1)
    return mono if rate is None or own_rate == rate else _resampled(mono, own_rate, rate, path)


def _rgb(picture: "Image", path: FilePath) -> "Image":
    from PIL import Image

    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        if deep.min() >= 0 and deep.max() < 1 << 16:
            # Pillow's own conversion clips values over 255.
            return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode.startswith(("I", "F")):
        got = f"{shown(path)} has 32 bits a pixel, with an unknown range"
        raise MediaError(f"{got}; expected 8 or 16 bits a channel; convert it")
    if picture.has_transparency_data:
        # As transformers does: without the alpha channel, invisible colours would appear.
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _resampled(wave: _Waveform, own_rate: int, rate: int, path: FilePath) -> _Waveform:
    try:
        import soxr
    except ImportError as error:
        got = f"{shown(path)} has {own_rate} samples a second"
        then = f"{install('audio')}, or resample it"
        raise MediaError(f"{got}; expected {rate}, as the model does; {then}") from error
    resampled: _Waveform = soxr.resample(wave, own_rate, rate)
    return resampled


def _require_several(name: str, values: Any) -> None:
    kind, expected = (
        (Iterable, "an iterable of strings") if name == "texts" else (Sequence, "a list of paths")
    )
    if isinstance(values, str | os.PathLike):
        raise UsageError(f"{name} is one string; expected {expected}: put it in a list")
    if not isinstance(values, kind | None):
        raise UsageError(f"{name} is {type(values).__name__}; expected {expected}; make it one")


def _require_file(path: FilePath, expected: str) -> None:
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"a file is named by {type(path).__name__}; expected a path; save it to a file first"
        )
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            got, then = (
                ("a directory", "name the files in it") if stat.S_ISDIR(mode) else ("a device", "name a file")
            )
            raise MediaError(f"{shown(path)} is {got}; expected {expected}; {then}")
        if not os.access(path, os.R_OK):
            raise PermissionError(None, "permission denied")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        then = "check its name and permissions"
        raise MediaError(f"cannot read {shown(path)}: {why}; expected {expected}; {then}") from error


def _require_reader(module: str, package: str, extra: str) -> None:
    try:
        __import__(module)
    except (ImportError, OSError) as error:  # OSError: soundfile without libsndfile.
        got = f"{module} cannot be imported ({reason(error)})"
        raise MediaError(f"{got}; expected {package}; {install(extra)}") from error


@contextmanager
def _as_model_errors(path: FilePath, expected: str) -> Iterator[None]:
    """Turn any error of a reader on a damaged or hostile file into one line."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        # For an unknown format, the messages of both readers only repeat the file name.
        unknown = "its format is unknown" if type(error).__name__ == "UnidentifiedImageError" else None
        why = getattr(error, "error_string", unknown) or reason(error)
        raise MediaError(f"cannot read {shown(path)}: {why}; expected {expected}; check the file") from error


def shown(path: FilePath) -> str:
    """Return a path as messages show it."""
    return quoted(os.fsdecode(path))
