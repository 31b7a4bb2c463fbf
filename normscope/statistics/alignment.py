"""Aligns a layer's input with tokens: valid rows, and the sample and position of each.

A layer's input becomes rows (V, D), one per valid token. Padding is left out here and nowhere else.
Positions count a sample's real tokens from 0, so left padding does not shift them.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from normscope.statistics.buffers import Scratch
from normscope.statistics.layout import (
    POOLED,
    UNALIGNED,
    Order,
    is_own_sequence,
    plain_layout,
    sequence_layouts,
    token_layouts,
)
from normscope.statistics.moments import Labels
from normscope.statistics.position_bins import Bins

_ALL = slice(None)


@dataclass(frozen=True)
class TokenMask:
    """The tokens of one forward pass: which are real, and which of them count.

    `real` (B, S) bool also covers earlier tokens of a key-value cache; `valid` (B, T) bool is about
    the forward's own tokens, the last T. A real token that does not count (a special token that
    was excluded) still takes a position. `ids` (B, T) are those tokens' ids, where they are asked for
    and known. Late positions share `bins`, if there are any. `texts` (B, T) numbers the samples where
    several share a row, one after the other; it is None where each row is one.
    """

    real: Tensor
    valid: Tensor
    ids: Tensor | None = None
    bins: Bins | None = None
    texts: Tensor | None = None

    def current(self) -> Tensor:
        """Return which of the forward's own tokens are real, (B, T)."""
        return self.real[:, -self.valid.shape[1] :]

    def positions(self) -> Tensor:
        """Number each sample's real tokens from 0, (B, T)."""
        numbers = (self.real.cumsum(1) - 1)[:, -self.valid.shape[1] :]
        if self.texts is None:
            return numbers
        begins = self.texts.diff(dim=1, prepend=self.texts[:, :1]) > 0
        return numbers - numbers.where(begins, 0).cummax(1).values

    def to(self, device: torch.device) -> "TokenMask":
        """Return the mask on another device."""
        ids = None if self.ids is None else self.ids.to(device)
        texts = None if self.texts is None else self.texts.to(device)
        return TokenMask(self.real.to(device), self.valid.to(device), ids, self.bins, texts)


@dataclass(frozen=True)
class Alignment:
    """The rows of a layer's input that count, and where each belongs.

    `index` picks them out of all rows. `sample` and `position` label them; the rows of one sample
    stand together, and samples are numbered without gaps; `batch_row` (G,) says which row of the
    batch each of them is, or which text where several share a row. A layout of None means that the
    axes could not be told apart: every row counts and belongs to no known sample or position. It is
    not `sure` where sizes that coincide would have allowed another layout. `word` (V,) is the token
    id of each row, None where there is none or it is not asked for. With `bins`, `position` labels
    rows by their bins, and `number` (V,) has the positions themselves.
    """

    layout: str | None
    index: Tensor | slice
    sample: Labels
    position: Labels
    batch_row: Tensor
    sure: bool = True
    word: Tensor | None = None
    bins: Bins | None = None
    number: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """The position of each row, (V,), whatever bin it is in."""
        return self.position.group if self.number is None else self.number

    @property
    def positioned(self) -> bool:
        """Whether rows have positions: not so when there is one row a sample, or no layout."""
        return self.layout is not None and self.layout != POOLED

    @property
    def by_text(self) -> bool:
        """Whether samples are the batch's texts, each with its own tokens."""
        return self.layout is not None and not is_own_sequence(self.layout)

    def take(self, rows: Tensor, scratch: Scratch | None = None, name: str = "") -> Tensor:
        """Return the rows (R, D) that count, (V, D): a view, or in a `scratch` block or new."""
        if isinstance(self.index, slice):
            return rows[self.index]
        out = None if scratch is None else scratch.block(name, rows, len(self.index))
        return torch.index_select(rows, 0, self.index, out=out)

    @cached_property
    def numbers(self) -> Tensor:
        """Return which of all rows count, (V,)."""
        if not isinstance(self.index, slice):
            return self.index
        start, group = self.index.start or 0, self.sample.group
        return torch.arange(start, start + len(group), device=group.device)

    @cached_property
    def total(self) -> Tensor:
        """How many rows count, (1, 1) float64."""
        return self.sample.count.sum(0, keepdim=True)

    def keep(self, chosen: Tensor) -> "Alignment":
        """Return the alignment of those of its rows that are `chosen` (V,) bool."""
        return self._relabelled(self.numbers[chosen], chosen)

    def parts(self, size: int) -> "list[Alignment]":
        """Cut at sample borders into parts of about `size` rows, each numbering its samples from 0."""
        parts, start, ends = [], 0, self.sample.count.flatten().cumsum(0).long().tolist()
        for i, end in enumerate(ends):
            following = ends[i + 1] if i + 1 < len(ends) else None
            if following is None or following - start > size:
                parts.append(self._slice(slice(start, end)))
                start = end
        return parts

    def _slice(self, part: slice) -> "Alignment":
        index = part if isinstance(self.index, slice) else self.index[part]
        return replace(self._relabelled(index, part), sure=self.sure)

    def _relabelled(self, index: Tensor | slice, chosen: Tensor | slice) -> "Alignment":
        word = None if self.word is None else self.word[chosen]
        sample, position = self.sample.group[chosen], self.positions[chosen]
        kept = _labelled(self.layout, index, sample, position, word, self.bins)
        return replace(kept, batch_row=self.batch_row[kept.batch_row])


def align(
    lead: tuple[int, ...],
    mask: TokenMask | None,
    feature_axis: int,
    device: torch.device,
    known: str | None = None,
    samples: int | None = None,
) -> Alignment:
    """Label the rows of an input whose axes other than the features are `lead`.

    With a mask the axes are matched against its (B, T). Where they are not those of its tokens, but one
    of them holds the B texts, the others are the layer's own sequence, N: pooled or added tokens,
    windows, whatever padding they hold. Without a mask they are matched against the number of
    `samples` alone, and if that is unknown, too, the first axis is the sample and the others, in
    order, are the position.

    Where sizes coincide and several layouts match, the one that is `known` from another call is
    taken, else the first, and the alignment is not `sure`. What is known to be UNALIGNED stays so,
    even where sizes happen to match.
    """
    rows = torch.arange(math.prod(lead), device=device).reshape(lead or (1,))
    if known == UNALIGNED and mask is not None:
        return _one_by_one(None, rows)
    if mask is None and (samples is None or rows.dim() == 1):
        return _without_mask(rows, feature_axis)
    tokens: dict[str, Order] = {}
    if mask is not None and not is_own_sequence(known):
        tokens = token_layouts(lead, mask.valid.shape, feature_axis)
    samples = samples if mask is None else len(mask.valid)
    letter = "T" if mask is None else "N"
    layouts = tokens or sequence_layouts(lead, samples or 1, feature_axis, letter)
    if not layouts:
        return _one_by_one(None, rows)
    layout = known if known in layouts else next(iter(layouts))
    sure = len(layouts) == 1 or rows.numel() == 1 or (samples == 1 and not tokens)
    if layout == POOLED:
        return replace(_one_by_one(POOLED, rows), sure=sure)
    order = layouts[layout](rows)
    where = _with_mask(layout, order, mask.to(device)) if tokens and mask else _in_order(layout, order)
    return replace(where, sure=sure)


def fits(lead: tuple[int, ...], mask: TokenMask) -> bool:
    """Whether these axes can be those of the mask's tokens."""
    return bool(token_layouts(lead, mask.valid.shape))


def _with_mask(layout: str, order: Tensor, mask: TokenMask) -> Alignment:
    valid = mask.valid[:, :, None].expand_as(order)
    rows = torch.arange(order.shape[0], device=order.device)[:, None]
    labels = (rows if mask.texts is None else mask.texts)[:, :, None].expand_as(order)
    positions = mask.positions()[:, :, None].expand_as(order)
    kept = order[valid]
    whole = torch.equal(kept, torch.arange(order.numel(), device=order.device))
    word = None if mask.ids is None else mask.ids[:, :, None].expand_as(order)[valid]
    index = _ALL if whole else kept
    return _labelled(layout, index, labels[valid], positions[valid], word, mask.bins)


def _without_mask(rows: Tensor, feature_axis: int) -> Alignment:
    if rows.dim() == 1:
        return _one_by_one(POOLED, rows)
    return _in_order(plain_layout(rows.dim(), feature_axis), rows.flatten(1))


def _in_order(layout: str, order: Tensor) -> Alignment:
    """Label rows whose numbers are in `order` (B, N): all of them count, at positions 0 to N - 1."""
    sample = torch.arange(len(order), device=order.device)[:, None].expand_as(order).flatten()
    position = torch.arange(order.shape[1], device=order.device)[None].expand_as(order).flatten()
    index = order.flatten()
    whole = torch.equal(index, torch.arange(len(index), device=index.device))
    return _labelled(layout, _ALL if whole else index, sample, position)


def _one_by_one(layout: str | None, rows: Tensor) -> Alignment:
    """Label rows that are no tokens: each stands for itself, at no position."""
    return _labelled(layout, _ALL, rows.flatten(), torch.zeros_like(rows.flatten()))


def _labelled(
    layout: str | None,
    index: Tensor | slice,
    sample: Tensor,
    position: Tensor,
    word: Tensor | None = None,
    bins: Bins | None = None,
) -> Alignment:
    # Numbered anew, so that a sample without a valid row is no group of zero rows.
    batch_row, sample = torch.unique_consecutive(sample, return_inverse=True)
    cells = Labels.of(position if bins is None else bins.of(position))
    number = None if bins is None else position
    return Alignment(layout, index, Labels.of(sample), cells, batch_row, True, word, bins, number)
