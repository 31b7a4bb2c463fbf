"""Modalities that a model takes (text, images, audio), read from its class before any weights."""

from collections.abc import Collection
from inspect import signature
from typing import Any

from normscope.errors import UsageError

TEXT, IMAGE, AUDIO = "text", "image", "audio"

WORDS = {TEXT: "texts", IMAGE: "images", AUDIO: "sounds"}
"""The plural of each kind, for messages."""

_PARAMETERS = {
    TEXT: {"input_ids", "inputs_embeds", "inputs"},
    IMAGE: {"pixel_values"},
    AUDIO: {"input_features", "input_values", "audio_values"},
}
_OPTIONS = {IMAGE: "--image FILE", AUDIO: "--audio FILE"}


def kinds_of(model: Any) -> list[str]:
    """Return the kinds of inputs that a model, or its class, takes, by the parameters of its forward.

    transformers' `input_modalities` adds media with other parameter names. It is ignored for text, which
    it also lists for a model that only writes text with its decoder.
    """
    parameters = signature(model.forward).parameters
    declared = getattr(model, "input_modalities", ())
    modalities = {declared} if isinstance(declared, str) else set(declared) - {TEXT}
    return [
        kind
        for kind, names in _PARAMETERS.items()
        if not names.isdisjoint(parameters) or (kind != TEXT and kind in modalities)
    ]


def require_kinds(model: Any, kinds: Collection[str]) -> None:
    """Raise UsageError if a model, or its class, does not take inputs of these kinds."""
    accepted = kinds_of(model)
    unwanted = [kind for kind in kinds if kind not in accepted]
    if not unwanted:
        return
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    got = f"{name} takes no {WORDS[unwanted[0]]}"
    if not accepted:
        raise UsageError(f"{got}; expected a model of texts, images or sounds; use normscope.watch in Python")
    expected = " and ".join(WORDS[kind] for kind in accepted)
    missing = [_OPTIONS[kind] for kind in accepted if kind in _OPTIONS and kind not in kinds]
    then = f"give {' or '.join(missing)}, once for each file" if missing else "leave them out"
    if unwanted == [TEXT] and not missing:
        # As with `--image *.png`: the shell makes all files but the first into texts.
        then += ", and repeat the option for each file"
    raise UsageError(f"{got}; expected {expected}; {then}")
