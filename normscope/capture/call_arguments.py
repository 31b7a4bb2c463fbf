"""Reads a forward's arguments by name: tokens, their mask, decoder padding, packed texts."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

TEXT = ("input_ids", "inputs_embeds")
# What a decoder is given that has its own names for its tokens and their mask.
DECODER = ("decoder_input_ids", "decoder_inputs_embeds")
SOUND = ("input_values", "input_features", "audio_values")
MEDIA = ("pixel_values", "pixel_values_videos", "pixel_values_images", *SOUND)
# What models of text and sounds call the mask of the sounds.
SOUND_MASKS = ("feature_attention_mask", "input_features_mask")
# What torch's losses ignore, and so what labels are padded with.
_IGNORED = -100
# What an encoder made in a forward of its own: nothing in there is given to this one.
_MADE = "encoder_outputs"
# How deep dictionaries and tuples of arguments are looked into.
_DEPTH = 4


def by_name(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call; those in dictionaries among them have names, too."""
    try:
        given = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:
        given = dict(kwargs)  # A call that does not fit: the model's own error is the better one.
    named = dict(given)
    for name, value in _within(given):
        named.setdefault(str(name), value)
    return named


def first(given: Mapping[str, Any], names: tuple[str, ...]) -> Tensor | None:
    """Return the first of these arguments that is a tensor."""
    return next((given[name] for name in names if isinstance(given.get(name), Tensor)), None)


def tensors(given: Mapping[str, Any]) -> list[Tensor]:
    """Return all tensors that a forward is given, in tuples and lists too."""
    return [value for _, value in _within(given) if isinstance(value, Tensor)]


def real_tokens(mask: Tensor) -> Tensor:
    """Tell which tokens an attention mask keeps, bool; what is added to scores is negative at padding."""
    mask = mask.detach()
    if mask.is_floating_point() and (bool((mask < 0).any()) or not bool(mask.any())):
        return mask >= 0
    return mask != 0


def decoder_mask(given: Mapping[str, Any]) -> Tensor | None:
    """Return the mask (B, T) of an encoder-decoder's decoder: its own, or what the labels tell.

    The decoder is fed the labels, moved one to the right by its start token, to predict label t at
    position t. So a position is padding where no label from there on is one to predict.
    """
    mask, labels = given.get("decoder_attention_mask"), given.get("labels")
    if isinstance(mask, Tensor):
        return mask
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return None
    predicted = (labels.detach() != _IGNORED).int()
    return predicted.flip(1).cumsum(1).flip(1) > 0


def holds_padding(ids: Any, config: Any, columns: list[int]) -> bool:
    """Whether several texts' ids (B, T) hold the padding token of a model's `config` in these columns."""
    pad = getattr(config, "pad_token_id", None)
    others = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "sep"))
    if not isinstance(ids, Tensor) or ids.dim() != 2 or min(ids.shape) < 2 or not isinstance(pad, int):
        return False
    return pad not in others and bool((ids[:, columns] == pad).any())


def packed_texts(given: Mapping[str, Any], real: Tensor) -> Tensor | None:
    """Number the texts that share rows (B, T), from 0 on over the batch; None where each row is one text.

    A text begins where `position_ids` go back: so transformers' collators without padding write it.
    """
    positions = given.get("position_ids")
    if not isinstance(positions, Tensor) or positions.dim() != 2 or positions.shape[1] != real.shape[1]:
        return None
    positions = positions.detach().to(real.device).expand(real.shape)
    begins = torch.ones_like(real)
    begins[:, 1:] = (positions[:, 1:] <= positions[:, :-1]) & real[:, 1:] & real[:, :-1]
    one_each = not bool(begins[:, 1:].any()) or bool((positions == positions[:, :1]).all())
    return None if one_each else begins.flatten().cumsum(0).reshape(real.shape) - 1


def _within(value: Any, depth: int = _DEPTH) -> Iterator[tuple[Any, Any]]:
    """Give what mappings, tuples and lists hold, under its name or None, outermost first."""
    if isinstance(value, Mapping):
        items = [(name, inner) for name, inner in value.items() if name != _MADE]
    elif isinstance(value, tuple | list):
        items = [(None, inner) for inner in value]
    else:
        return
    yield from items
    if depth:
        for _, inner in items:
            yield from _within(inner, depth - 1)
