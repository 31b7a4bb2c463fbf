"""Scopes: the tokens and masks of each module that takes tokens, for the layers inside it.

An encoder and a decoder, or a text tower and an image tower, each call their layers in their own
forward, with their own tokens and mask. A layer belongs to the innermost scope.
"""

import inspect
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normscope.capture.audio_frames import Frames
from normscope.capture.call_arguments import (
    DECODER,
    MEDIA,
    SOUND,
    SOUND_MASKS,
    TEXT,
    decoder_mask,
    first,
    holds_padding,
    named_arguments,
    packed_texts,
    real_tokens,
    tensors,
)
from normscope.capture.scope import Scope
from normscope.data.token_selection import TokenRules, without
from normscope.errors import UsageError
from normscope.statistics.alignment import TokenMask
from normscope.statistics.position_bins import Bins

Mask = Tensor | None
_UNLESS = "padding counts unless watcher.mask is set"


class UserMasks(NamedTuple):
    """The user's own masks, (B, T): for the text, and for the decoder of an encoder-decoder."""

    text: Mask
    decoder: Mask


class Scopes:
    """The open scopes, outermost first; their masks carry the token ids.

    Late positions of their tokens share `bins`, if these are set. The `rules` leave more tokens out.
    """

    def __init__(self, rules: TokenRules | None = None) -> None:
        self._rules = rules or TokenRules()
        self.bins: Bins | None = None
        self._open: list[Scope] = []
        self.notes: dict[str, None] = {}
        """Notes on what could not be read, each note once, in order."""
        self._signatures: dict[type[nn.Module], inspect.Signature] = {}
        self._unread = False
        self._sound_mask: Tensor | None = None

    @property
    def depth(self) -> int:
        """The number of open scopes."""
        return len(self._open)

    @property
    def current(self) -> Scope | None:
        """The innermost open scope, None if no scope is open."""
        return self._open[-1] if self._open else None

    def opens_one(self, module: nn.Module) -> bool:
        """Whether the module's forward takes tokens, images or sounds by a known name."""
        return not {*TEXT, *DECODER, *MEDIA}.isdisjoint(self._signature(module).parameters)

    def open(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], chosen: UserMasks
    ) -> None:
        """Open the scope of a module's forward with these arguments.

        `chosen` are the user's own masks; UsageError when one does not fit the forward's tokens.
        """
        signature = self._signature(module)
        arguments = named_arguments(signature, args, kwargs)
        takes_mask = "attention_mask" in {*arguments, *signature.parameters}
        if set(DECODER).isdisjoint(signature.parameters):
            arguments.pop("labels", None)  # In other models, -100 marks tokens to ignore, not padding.
        if not self._open:
            _require_masks(chosen, arguments)
            self._unread = chosen.text is None and any(map(_may_be_tokens, tensors(arguments)))
            self._sound_mask = first(arguments, SOUND_MASKS)
            self._look_for_padding(module, arguments, chosen)
        # If a module inside takes a mask, its own scope knows the padding.
        self._unread &= not takes_mask
        self._open.append(self._scope(arguments, chosen))
        if self.depth == 1 and self._rules:
            self._look_for_ids(self._open[0].mask)

    def _look_for_ids(self, mask: TokenMask | None) -> None:
        """Add a note when the rules that leave tokens out cannot be applied to the outermost forward."""
        if mask is None:
            self.notes["a forward has no tokens, so exclude_tokens and skip_first left nothing out"] = None
        elif mask.ids is None and self._rules.excluded:
            self.notes["a forward has no input_ids, so exclude_tokens left nothing out"] = None

    def _look_for_padding(self, module: nn.Module, arguments: dict[str, Any], chosen: UserMasks) -> None:
        """Add a note when ids hold the padding token and there is no mask."""
        config, ids = getattr(module, "config", None), arguments.get("input_ids")
        masked = isinstance(arguments.get("attention_mask"), Tensor) or chosen.text is not None
        if not masked and holds_padding(ids, config, [0, -1]):
            self.notes[f"input_ids hold the padding token and no attention_mask is given: {_UNLESS}"] = None
        # Only the last column is checked: the start token of a decoder may be the padding token.
        ids, masked = arguments.get("decoder_input_ids"), decoder_mask(arguments) is not None
        if not masked and chosen.decoder is None and holds_padding(ids, config, [-1]):
            self.notes[
                "decoder_input_ids end in the padding token, and neither labels nor a decoder_attention_mask "
                "are given: padding counts unless watcher.decoder_mask is set"
            ] = None

    def convolved(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Map the frames of sounds through a convolution or a pool; a forward hook."""
        frames = self._open[-1].frames if self._open else None
        if frames is not None and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            frames.convolved(module, args[0], output)

    def finish(self, module: nn.Module) -> None:
        """Note what was not read in the outermost forward; UsageError if a user's mask fitted no layer."""
        scope = self._open[0]
        if self._unread:
            self.notes[f"{type(module).__name__}'s forward has no attention_mask: {_UNLESS}"] = None
        if scope.chosen is not None and scope.alignments and not scope.fitted:
            rows = ", ".join(str(tuple(key[0])) for key in list(scope.alignments)[:3])
            raise UsageError(
                f"watcher.mask is {tuple(scope.chosen.shape)} and layers have rows of {rows}; "
                "set a (batch, rows) mask for each batch, or None"
            )

    def close(self) -> None:
        """Close the innermost scope."""
        if self._open:
            self._open.pop()

    def clear(self) -> None:
        """Close all scopes."""
        self._open.clear()

    def _signature(self, module: nn.Module) -> inspect.Signature:
        # A forward that was set on the instance may differ from that of its class.
        if "forward" in vars(module):
            return inspect.signature(module.forward)
        kind = type(module)
        if kind not in self._signatures:
            # The first parameter, `self`, is not an argument of a call.
            own = inspect.signature(kind.forward)
            self._signatures[kind] = own.replace(parameters=list(own.parameters.values())[1:])
        return self._signatures[kind]

    def _scope(self, arguments: dict[str, Any], chosen: UserMasks) -> Scope:
        outer, tokens = self.current, first(arguments, TEXT)
        # Cross-attention shows that these tokens are not those of the encoder outside.
        decodes = isinstance(arguments.get("encoder_hidden_states"), Tensor)
        decoder = decoder_mask(arguments)
        # The outermost forward gets the labels or the mask; the decoder inside often does not.
        if decoder is None and outer is not None:
            decoder = outer.decoder
        mask = self._readable(arguments.get("attention_mask"), chosen)
        if outer is not None and tokens is None and first(arguments, DECODER) is not None:
            tokens, mask, decodes = first(arguments, DECODER), decoder, True
        # A model with its own name for the tokens' states still shows them by the shape of its mask.
        if tokens is None and mask is not None:
            tokens = next((v for v in arguments.values() if _is_sequence(v, mask)), None)
        media = first(arguments, MEDIA)
        if media is not None and (tokens is None or tokens is media):
            same_shape = (scope for scope in reversed(self._open) if scope.media == media.shape)
            outer_tower = next((scope for scope in same_shape if mask is None or mask is scope.source), None)
            if outer_tower is not None:
                return outer_tower  # A tower passes its input on to a module inside.
        if tokens is None and media is not None:
            return self._of_media(arguments, media, mask, decoder, chosen.text)
        if tokens is None or tokens.dim() < 2:
            scope = outer or _unnamed(arguments, chosen.text, self.bins)
            scope.decoder = decoder
            return scope
        return self._of_tokens(arguments, tokens, mask, decoder, chosen, decodes=decodes)

    def _readable(self, mask: Any, chosen: UserMasks) -> Tensor | None:
        """Return an attention mask with the axes (B, T), else None; a mask with other axes is noted."""
        if not isinstance(mask, Tensor) or mask.dim() == 2:
            return mask if isinstance(mask, Tensor) else None
        if not self._open and chosen.text is None:
            self.notes[f"attention_mask has {mask.dim()} axes, not 2: {_UNLESS}"] = None
        return None

    def _of_media(
        self,
        arguments: dict[str, Any],
        media: Tensor,
        mask: Tensor | None,
        decoder: Tensor | None,
        chosen: Tensor | None,
    ) -> Scope:
        """Return the scope of images or sounds, which are not a sequence of tokens."""
        sound = first(arguments, SOUND) is media
        if mask is None and sound and self._sound_mask is not None and self._sound_mask.dim() == 2:
            mask = self._sound_mask
        # Inside a forward with a mask, the user's mask is about the tokens of that forward.
        if any(scope.source is not None for scope in self._open):
            chosen = None
        real = None if mask is None or len(mask) != len(media) else real_tokens(mask)
        if sound and chosen is not None and tuple(chosen.shape) in {(len(media), n) for n in media.shape[1:]}:
            # The user's mask has the shape of the sounds, so it is not about the rows of a layer.
            counted = chosen.detach() != 0
            real, chosen = counted if real is None else real & counted.to(real.device), None
        frames = Frames(real) if sound and real is not None and not bool(real.all()) else None
        samples = len(media) if media.dim() > 2 or frames is not None else None
        return Scope(None, mask, decoder, self.current, samples, media.shape, frames, chosen)

    def _of_tokens(
        self,
        arguments: dict[str, Any],
        tokens: Tensor,
        mask: Tensor | None,
        decoder: Tensor | None,
        chosen: UserMasks,
        *,
        decodes: bool,
    ) -> Scope:
        outer, shape = self.current, (tokens.shape[0], tokens.shape[1])
        handed_down = mask is None or (outer is not None and mask is outer.source)
        if outer is not None and handed_down and not decodes and outer.is_of(shape):
            outer.decoder = decoder
            return outer  # The same tokens: an inner module may get their mask in a 4-D form.
        # A decoder inside gets the mask that an outer forward has found for it.
        if decodes and mask is None and outer is not None:
            mask = outer.decoder
        real = None if mask is None else real_tokens(mask)
        if real is None or real.shape[0] != shape[0] or real.shape[1] < shape[1]:
            if real is not None and outer is None and chosen.text is None:
                self.notes[f"attention_mask is {tuple(real.shape)} and the tokens are {shape}: {_UNLESS}"] = (
                    None
                )
            # All tokens are real, also those in a cache, which shift the positions.
            sizes = shape[0], _earlier(arguments) + shape[1]
            real = torch.ones(sizes, dtype=torch.bool, device=tokens.device)
        user_mask, rows = chosen.decoder if decodes else chosen.text, None
        media = tokens.shape if tokens is first(arguments, SOUND) else None
        if media is not None and user_mask is not None and user_mask.shape != shape:
            user_mask, rows = None, user_mask  # The user's mask is about the rows after the convolutions.
        # A mask of a user is about the outermost tokens: inside, other tokens may have other shapes.
        strict = all(scope.source is None for scope in self._open) and not (decodes and self._open)
        texts = packed_texts(arguments, real) if real.shape == shape else None
        token_mask = replace(_token_mask(real, shape, user_mask, strict=strict), texts=texts, bins=self.bins)
        same_tokens = outer if outer is not None and outer.is_of(shape) and not decodes else None
        token_mask = replace(token_mask, ids=_ids(tokens, same_tokens))
        if self._rules:
            left_out = self._rules.left_out(token_mask.valid, token_mask.positions(), token_mask.ids)
            token_mask = replace(token_mask, valid=without(token_mask.valid, left_out), left_out=left_out)
        # The rows of a spectrogram count as tokens; convolutions reduce their number.
        frames = None if media is None or bool(token_mask.valid.all()) else Frames(token_mask.valid)
        source = real if mask is None else mask
        return Scope(token_mask, source, decoder, outer, media=media, frames=frames, chosen=rows)


def _require_masks(chosen: UserMasks, arguments: dict[str, Any]) -> None:
    """Raise UsageError for a user's mask that is not a (B, T) tensor or does not fit the decoder's tokens."""
    for name, mask in (("mask", chosen.text), ("decoder_mask", chosen.decoder)):
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise UsageError(
                f"watcher.{name} is {got}; expected a tensor (batch, tokens) for each batch, or None"
            )
    tokens = first(arguments, (*DECODER, "labels"))
    if chosen.decoder is not None and tokens is not None and chosen.decoder.shape != tokens.shape[:2]:
        raise UsageError(
            f"watcher.decoder_mask is {tuple(chosen.decoder.shape)} and the decoder's tokens are "
            f"{tuple(tokens.shape[:2])}; set a (batch, tokens) mask for each batch, or None"
        )


def _may_be_tokens(value: Tensor) -> bool:
    """Whether a tensor may hold the tokens of several texts, or their mask."""
    return value.dim() == 2 and min(value.shape) > 1 and not value.is_floating_point()


def _unnamed(arguments: dict[str, Any], chosen: Tensor | None, bins: Bins | None) -> Scope:
    """Return the scope of a forward that has no tokens under a known name."""
    inputs = tensors(arguments)
    if chosen is not None:
        real = chosen.detach() != 0
        fitted = any(value.shape[:2] == chosen.shape for value in inputs)
        return Scope(TokenMask(real, real, bins=bins), chosen=chosen, fitted=fitted)
    return Scope(None, samples=0 if inputs and not any(value.numel() for value in inputs) else None)


def _ids(tokens: Tensor, same: Scope | None) -> Tensor | None:
    """Return the token ids (B, T) from `tokens`, else from the scope `same` of the same tokens, else None."""
    if tokens.dim() == 2 and not tokens.is_floating_point():
        return tokens.detach()
    return same.mask.ids if same is not None and same.mask is not None else None


def _earlier(arguments: dict[str, Any]) -> int:
    """Return how many tokens a key-value cache holds; they come before the forward's own tokens."""
    # Found by its method: releases of transformers have called it `past_key_values` and `cache`.
    lengths = (getattr(value, "get_seq_length", None) for value in arguments.values())
    return next((int(length()) for length in lengths if callable(length)), 0)


def _is_sequence(value: Any, mask: Tensor) -> bool:
    """Whether a forward's argument is (B, T, D) for this (B, T) mask."""
    return isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == mask.shape


def _token_mask(real: Tensor, shape: tuple[int, int], chosen: Tensor | None, *, strict: bool) -> TokenMask:
    """Combine the attention mask `real` (B, S) with the user's mask `chosen` (B, T).

    With a key-value cache, `real` also covers earlier tokens, so S > T. If `strict`, raises UsageError
    when `chosen` has another shape than the tokens.
    """
    valid = real[:, -shape[1] :]
    if chosen is not None and tuple(chosen.shape) == shape:
        valid = valid & (chosen.detach().to(real.device) != 0)
    elif chosen is not None and strict:
        raise UsageError(
            f"watcher.mask is {tuple(chosen.shape)} and the forward's tokens are {shape}; "
            "set a (batch, tokens) mask for each batch, or None"
        )
    return TokenMask(real, valid)
