"""Reads a forward's arguments by name: tokens, their mask, decoder padding, packed texts."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

TEXT = ("input_ids", "inputs_embeds")
# The names of a decoder's tokens, where they differ from those of the encoder.
DECODER = ("decoder_input_ids", "decoder_inputs_embeds")
SOUND = ("input_values", "input_features", "audio_values")
MEDIA = ("pixel_values", "pixel_values_videos", "pixel_values_images", *SOUND)
# The names of the audio mask in models of text and audio.
SOUND_MASKS = ("feature_attention_mask", "input_features_mask")
# The label that torch's losses ignore; labels are therefore padded with it.
_IGNORED = -100
# The output of an earlier forward of the encoder: nothing in it is an argument of this forward.
_ENCODED = "encoder_outputs"
# The depth to which nested dictionaries and tuples of arguments are searched.
_DEPTH = 4


def named_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name, and also those in nested dictionaries."""
    try:
        arguments = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:
        # The call does not fit the signature: the model itself raises the better error.
        arguments = dict(kwargs)
    named = dict(arguments)
    for name, value in _within(arguments):
        named.setdefault(str(name), value)
    return named


def first(arguments: Mapping[str, Any], names: tuple[str, ...]) -> Tensor | None:
    """Return the first argument in `names` that is a tensor, None if there is none."""
    return next((arguments[name] for name in names if isinstance(arguments.get(name), Tensor)), None)


def tensors(arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors in a forward's arguments, also in nested dictionaries, tuples and lists."""
    return [value for _, value in _within(arguments) if isinstance(value, Tensor)]


def real_tokens(mask: Tensor) -> Tensor:
    """Return which tokens an attention mask keeps, bool in the shape of the mask."""
    mask = mask.detach()
    # A mask that is added to scores is 0 at tokens and negative at padding.
    if mask.is_floating_point() and (bool((mask < 0).any()) or not bool(mask.any())):
        return mask >= 0
    return mask != 0


def decoder_mask(arguments: Mapping[str, Any]) -> Tensor | None:
    """Return the mask (B, T) of a decoder: its own argument, or one from the labels, else None.

    The decoder's input is the labels, shifted right by its start token; it predicts label t at position
    t. So a position is padding if neither its label nor any later label is one to predict.
    """
    mask, labels = arguments.get("decoder_attention_mask"), arguments.get("labels")
    if isinstance(mask, Tensor):
        return mask
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return None
    predicted = (labels.detach() != _IGNORED).int()
    return predicted.flip(1).cumsum(1).flip(1) > 0


def holds_padding(ids: Any, config: Any, columns: list[int]) -> bool:
    """Whether the ids (B, T) of several texts hold the padding token of `config` in these columns."""
    pad = getattr(config, "pad_token_id", None)
    others = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "sep"))
    if not isinstance(ids, Tensor) or ids.dim() != 2 or min(ids.shape) < 2 or not isinstance(pad, int):
        return False
    # A padding token with a second role, such as eos, may also be a real token.
    return pad not in others and bool((ids[:, columns] == pad).any())


def packed_texts(arguments: Mapping[str, Any], real: Tensor) -> Tensor | None:
    """Number the packed texts of a batch from 0, (B, T); None where each row is one text.

    A text begins where `position_ids` do not increase; transformers' padding-free collators write them so.
    """
    positions = arguments.get("position_ids")
    if not isinstance(positions, Tensor) or positions.dim() != 2 or positions.shape[1] != real.shape[1]:
        return None
    positions = positions.detach().to(real.device).expand(real.shape)
    begins = torch.ones_like(real)
    begins[:, 1:] = (positions[:, 1:] <= positions[:, :-1]) & real[:, 1:] & real[:, :-1]
    one_each = not bool(begins[:, 1:].any()) or bool((positions == positions[:, :1]).all())
    return None if one_each else begins.flatten().cumsum(0).reshape(real.shape) - 1


def _within(value: Any, depth: int = _DEPTH) -> Iterator[tuple[Any, Any]]:
    """Yield the (name or None, value) pairs in mappings, tuples and lists, outer pairs first."""
    if isinstance(value, Mapping):
        items = [(name, inner) for name, inner in value.items() if name != _ENCODED]
    elif isinstance(value, tuple | list):
        items = [(None, inner) for inner in value]
    else:
        return
    yield from items
    if depth:
        for _, inner in items:
            yield from _within(inner, depth - 1)
