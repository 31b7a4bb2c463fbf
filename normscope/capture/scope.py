"""One scope: the tokens of one forward, and the alignment of the layers inside it with them."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from normscope.capture.audio_frames import Frames
from normscope.statistics.alignment import Alignment, TokenMask, align, fits


@dataclass
class Scope:
    """The tokens of one forward, None where it has none, and the alignments that its layers share.

    `source` is the attention mask it was read from, `decoder` the one meant for a decoder within.
    A layer whose axes are not those of these tokens may see the `outer` ones, as cross-attention does.
    `samples` is how many images or sounds a tower is given, None where that is unknown; `media` are
    their axes, `frames` those of padded sounds, and `chosen` is the user's own mask of its rows, which
    has `fitted` or not.
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
    known: dict[Any, list[Alignment]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether it is known to hold nothing but padding, or nothing at all."""
        return self.samples == 0 if self.mask is None else not bool(self.mask.current().any())

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
                mask = self._mask_of(lead)
                found = align(lead, mask, feature_axis, device, layout, self.samples).parts(size)
            else:
                found = enclosing.parts(lead, feature_axis, size, device, layout)
            self.known[key] = found
        return self.known[key]

    def _mask_of(self, lead: tuple[int, ...]) -> TokenMask | None:
        """Return the mask of a layer's rows with these axes."""
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
        """Return the nearest scope around whose tokens, or texts, these axes hold if they are not ours."""
        ours, outer = self.mask, self.outer
        known = ours if self.frames is None else self.frames.mask_of(lead)
        if ours is None or fits(lead, ours) or (known is not None and fits(lead, known)):
            return None
        while outer is not None and outer.mask is not None:
            theirs = lead[:1] == outer.mask.valid.shape[:1] != ours.valid.shape[:1]
            if theirs or fits(lead, outer.mask):
                return outer
            outer = outer.outer
        return None
