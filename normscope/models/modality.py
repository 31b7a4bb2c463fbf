"""Modalities that a model takes: text, images, audio; read from its class, before any weights."""

from collections.abc import Collection
from inspect import signature
from typing import Any

from normscope.errors import UsageError

TEXT, IMAGE, AUDIO = "text", "image", "audio"

WORDS = {TEXT: "texts", IMAGE: "images", AUDIO: "sounds"}
"""Each kind in the plural, as a sentence needs it."""

_PARAMETERS = {
    TEXT: {"input_ids", "inputs_embeds", "inputs"},
    IMAGE: {"pixel_values"},
    AUDIO: {"input_features", "input_values", "audio_values"},
}
_OPTIONS = {IMAGE: "--image FILE", AUDIO: "--audio FILE"}


def kinds_of(model: Any) -> list[str]:
    """Name the kinds that a model, or a model's class, takes, by its forward's parameters.

    transformers' `input_modalities` adds media that go by other names. It is not asked about text:
    it says that of any model whose decoder writes some, too.
    """
    parameters = signature(model.forward).parameters
    said = getattr(model, "input_modalities", ())
    modalities = {said} if isinstance(said, str) else set(said) - {TEXT}
    return [
        kind
        for kind, names in _PARAMETERS.items()
        if not names.isdisjoint(parameters) or (kind != TEXT and kind in modalities)
    ]


def require_kinds(model: Any, given: Collection[str]) -> None:
    """Raise UsageError if a model, or a model's class, takes not what it is to be given."""
    taken = kinds_of(model)
    unwanted = [kind for kind in given if kind not in taken]
    if not unwanted:
        return
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    got = f"{name} takes no {WORDS[unwanted[0]]}"
    if not taken:
        raise UsageError(f"{got}; expected a model of texts, images or sounds; use normscope.watch in Python")
    expected = " and ".join(WORDS[kind] for kind in taken)
    missing = [_OPTIONS[kind] for kind in taken if kind in _OPTIONS and kind not in given]
    then = f"give {' or '.join(missing)}, once for each file" if missing else "leave them out"
    if unwanted == [TEXT] and not missing:
        # As of `--image *.png`, where the shell makes texts of all files but the first.
        then += ", and repeat the option for each file"
    raise UsageError(f"{got}; expected {expected}; {then}")
