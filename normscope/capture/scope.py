"""One scope: the tokens of one forward, and the alignment of the layers inside it with them."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from normscope.capture.audio_frames import Frames
from normscope.statistics.alignment import Alignment, TokenMask, align, fits


@dataclass
class Scope:
    """The tokens of one forward, None if it has none, and the alignments that its layers share.

    `source` is the attention mask that `mask` was read from, and `decoder` the mask for a decoder inside.
    A layer whose axes do not match these tokens may get those of `outer`, as in cross-attention.
    `samples` is the number of images or sounds in the input, None if it is unknown. `media` is the shape
    of that input, and `frames` are the frames of padded sounds. `chosen` is the user's own mask of the
    layers' rows, and `fitted` says whether it has fitted a layer. `alignments` has the alignments by shape.
    """

    mask: TokenMask | None
    source: Tensor | None = None
    decoder: Tensor | None = None
    outer: "Scope | None" = None
    samples: int | None = None
    media: torch.Size | None = None
    frames: Frames | None = None
    chosen: Tensor | None = None
    fitted: bool = False
    alignments: dict[Any, list[Alignment]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether the forward is known to have only padding, or no samples."""
        return self.samples == 0 if self.mask is None else not bool(self.mask.current().any())

    def is_of(self, shape: tuple[int, int]) -> bool:
        """Whether its tokens have this shape (B, T)."""
        return self.mask is not None and self.mask.valid.shape == shape

    def parts(
        self,
        lead: tuple[int, ...],
        feature_axis: int,
        size: int,
        device: torch.device,
        layout: str | None,
        *,
        every: bool = False,
    ) -> list[Alignment]:
        """Return the alignment of an input with the axes `lead` in addition to its features.

        It comes in parts of about `size` rows. `layout` decides where sizes are ambiguous, if it is known.
        With `every`, all rows count, also those of padding.
        """
        key = (lead, feature_axis, size, device, layout, every)
        # All layers of one shape share the alignment, so it is computed once in a forward.
        if key not in self.alignments:
            enclosing = self._enclosing(lead)
            if enclosing is None:
                mask = self._mask_of(lead)
                if every and mask is not None:
                    mask = replace(mask, valid=torch.ones_like(mask.valid))
                parts = align(lead, mask, feature_axis, device, layout, self.samples).parts(size)
            else:
                parts = enclosing.parts(lead, feature_axis, size, device, layout, every=every)
            self.alignments[key] = parts
        return self.alignments[key]

    def _mask_of(self, lead: tuple[int, ...]) -> TokenMask | None:
        """Return the mask of a layer's rows with the axes `lead`, None without any."""
        mask = self.mask
        if self.frames is not None and (mask is None or not fits(lead, mask)):
            mask = self.frames.mask_of(lead)
        if self.chosen is None or lead == self.chosen.shape[:1]:
            return mask
        valid = self.chosen.detach() != 0
        if not fits(lead, TokenMask(valid, valid)):
            return mask
        self.fitted = True
        if mask is None or mask.valid.shape != valid.shape:
            return TokenMask(torch.ones_like(valid), valid)
        return replace(mask, valid=mask.valid & valid.to(mask.valid.device))

    def _enclosing(self, lead: tuple[int, ...]) -> "Scope | None":
        """Return the nearest outer scope that `lead` matches; None if it matches this scope, or no other."""
        ours, outer = self.mask, self.outer
        frames = ours if self.frames is None else self.frames.mask_of(lead)
        if ours is None or fits(lead, ours) or (frames is not None and fits(lead, frames)):
            return None
        while outer is not None and outer.mask is not None:
            # Of another number of samples, as many as the outer tokens have: it belongs to those.
            theirs = lead[:1] == outer.mask.valid.shape[:1] != ours.valid.shape[:1]
            if theirs or fits(lead, outer.mask):
                return outer
            outer = outer.outer
        return None
