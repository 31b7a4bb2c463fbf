"""Whose tokens a layer sees: each module that is given tokens opens a scope for the layers within it.

An encoder and a decoder, a text tower and an image tower, each call their layers in a forward of
their own, with their own tokens and mask. The innermost scope is the one that a layer belongs to.
"""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normscope.alignment import Alignment, TokenMask, align, fits
from normscope.bins import Bins
from normscope.errors import UsageError

TEXT = ("input_ids", "inputs_embeds")
# What a decoder is given that has its own names for its tokens and their mask.
DECODER = ("decoder_input_ids", "decoder_inputs_embeds")
MEDIA = (
    "pixel_values",
    "pixel_values_videos",
    "pixel_values_images",
    "input_values",
    "input_features",
    "audio_values",
)


class Chosen(NamedTuple):
    """The user's own masks, (B, T): of the text, and of an encoder-decoder's decoder."""

    text: Tensor | None
    decoder: Tensor | None


@dataclass
class Scope:
    """The tokens of one forward, None where it has none, and the alignments that its layers share.

    `source` is the attention mask it was read from, `decoder` the one meant for a decoder within.
    A layer whose axes are not those of these tokens may see the `outer` ones, as cross-attention does.
    `samples` is how many images or sounds a tower is given, None where that is unknown.
    """

    mask: TokenMask | None
    source: Tensor | None = None
    decoder: Tensor | None = None
    outer: "Scope | None" = None
    samples: int | None = None
    known: dict[Any, list[Alignment]] = field(default_factory=dict)

    def is_of(self, shape: tuple[int, int]) -> bool:
        """Whether its tokens are (B, T)."""
        return self.mask is not None and self.mask.valid.shape == shape

    def parts(
        self, lead: tuple[int, ...], feature_axis: int, size: int, device: torch.device, layout: str | None
    ) -> list[Alignment]:
        """Return the alignment of an input with these axes before its features, in parts of `size` rows.

        `layout` is the one to read ambiguous sizes by, if it is known.
        """
        key = (lead, feature_axis, size, device, layout)
        if key not in self.known:
            enclosing = self._enclosing(lead)
            if enclosing is None:
                found = align(lead, self.mask, feature_axis, device, layout, self.samples).parts(size)
            else:
                found = enclosing.parts(lead, feature_axis, size, device, layout)
            self.known[key] = found
        return self.known[key]

    def _enclosing(self, lead: tuple[int, ...]) -> "Scope | None":
        """Return the nearest scope around whose tokens, or texts, these axes hold if they are not ours."""
        ours, outer = self.mask, self.outer
        if ours is None or fits(lead, ours):
            return None
        while outer is not None and outer.mask is not None:
            theirs = lead[:1] == outer.mask.valid.shape[:1] != ours.valid.shape[:1]
            if theirs or fits(lead, outer.mask):
                return outer
            outer = outer.outer
        return None


class Scopes:
    """The scopes that are open, outermost first; with the tokens' ids if `words` are asked for.

    Late positions of their tokens share `bins`, if there are any.
    """

    def __init__(self, words: bool = False) -> None:
        self.words = words
        self.bins: Bins | None = None
        self._open: list[Scope] = []
        self.notes: dict[str, None] = {}
        """What was not understood, once each, in order."""
        self._signatures: dict[type[nn.Module], inspect.Signature] = {}

    @property
    def depth(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def current(self) -> Scope | None:
        """The innermost one."""
        return self._open[-1] if self._open else None

    def opens_one(self, module: nn.Module) -> bool:
        """Whether the module's forward is given tokens."""
        return not {*TEXT, *DECODER, *MEDIA}.isdisjoint(self._signature(module).parameters)

    def open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], chosen: Chosen) -> None:
        """Open the scope of a module's forward; `chosen` are the user's own masks."""
        try:
            given = dict(self._signature(module).bind_partial(*args, **kwargs).arguments)
        except TypeError:
            given = dict(kwargs)  # A call that does not fit: the model's own error is the better one.
        given.update(given.get("kwargs", {}))
        self._open.append(self._scope(given, chosen))

    def close(self) -> None:
        """Close the innermost scope."""
        if self._open:
            self._open.pop()

    def clear(self) -> None:
        """Close all."""
        self._open.clear()

    def _signature(self, module: nn.Module) -> inspect.Signature:
        # A forward that was replaced on the instance is not its class's.
        if "forward" in vars(module):
            return inspect.signature(module.forward)
        kind = type(module)
        if kind not in self._signatures:
            own = inspect.signature(kind.forward)
            self._signatures[kind] = own.replace(parameters=list(own.parameters.values())[1:])
        return self._signatures[kind]

    def _scope(self, given: dict[str, Any], chosen: Chosen) -> Scope:
        outer, tokens = self.current, _first(given, TEXT)
        mask = given.get("attention_mask")
        decodes = isinstance(given.get("encoder_hidden_states"), Tensor)
        if outer is not None and tokens is None and _first(given, DECODER) is not None:
            tokens, mask, decodes = _first(given, DECODER), given.get("decoder_attention_mask"), True
        if outer is None and isinstance(mask, Tensor) and mask.dim() != 2 and chosen.text is None:
            self.notes[
                f"attention_mask has {mask.dim()} axes, not 2: padding counts unless watcher.mask is set"
            ] = None
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        if tokens is None and mask is not None:
            tokens = next((v for v in given.values() if _is_sequence(v, mask)), None)
        media = _first(given, MEDIA)
        if tokens is None and media is not None:
            return Scope(None, samples=len(media) if media.dim() > 2 else None)
        if tokens is None or tokens.dim() < 2:
            return outer or Scope(_chosen_only(chosen.text, self.bins))
        shape = (tokens.shape[0], tokens.shape[1])
        handed_down = mask is None or (outer is not None and mask is outer.source)
        if outer is not None and handed_down and not decodes and outer.is_of(shape):
            return outer  # The same tokens: on the way down their mask may have become 4-D.
        if decodes and mask is None and outer is not None and outer.decoder is not None:
            mask = outer.decoder
        if mask is None or mask.shape[0] != shape[0] or mask.shape[1] < shape[1] or not mask.any():
            mask = torch.ones(shape[0], _earlier(given) + shape[1], dtype=torch.bool, device=tokens.device)
        picked = chosen.decoder if decodes else chosen.text
        decoder = given.get("decoder_attention_mask")
        ours = replace(_token_mask(mask, shape, picked, strict=outer is None), bins=self.bins)
        if self.words:
            same = outer if outer is not None and outer.is_of(shape) and not decodes else None
            ours = replace(ours, ids=_ids(tokens, same))
        return Scope(ours, mask, decoder, outer)


def _ids(tokens: Tensor, same: Scope | None) -> Tensor | None:
    """Return the ids of a forward's tokens: what it is given, or what the scope of the `same` tokens is."""
    if tokens.dim() == 2 and not tokens.is_floating_point():
        return tokens.detach()
    return same.mask.ids if same is not None and same.mask is not None else None


def _earlier(given: dict[str, Any]) -> int:
    """How many tokens a key-value cache holds, which come before the forward's own."""
    # By what it does: releases of transformers have called it `past_key_values` and `cache`.
    lengths = (getattr(value, "get_seq_length", None) for value in given.values())
    return next((int(length()) for length in lengths if callable(length)), 0)


def _first(given: dict[str, Any], names: tuple[str, ...]) -> Tensor | None:
    return next((given[name] for name in names if isinstance(given.get(name), Tensor)), None)


def _is_sequence(value: Any, mask: Tensor) -> bool:
    """Whether a forward's argument is (B, T, D) for this (B, T) mask."""
    return isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == mask.shape


def _chosen_only(chosen: Tensor | None, bins: Bins | None) -> TokenMask | None:
    return None if chosen is None else TokenMask(chosen.detach() != 0, chosen.detach() != 0, bins=bins)


def _token_mask(mask: Tensor, shape: tuple[int, int], chosen: Tensor | None, *, strict: bool) -> TokenMask:
    """Join the attention mask with the user's. With a key-value cache it covers earlier tokens, too."""
    real = mask.detach() != 0
    valid = real[:, -shape[1] :]
    if chosen is not None and tuple(chosen.shape) == shape:
        valid = valid & (chosen.detach().to(real.device) != 0)
    elif chosen is not None and strict:
        raise UsageError(
            f"watcher.mask is {tuple(chosen.shape)} and the forward's tokens are {shape}; "
            "set a (batch, tokens) mask for each batch, or None"
        )
    return TokenMask(real, valid)
