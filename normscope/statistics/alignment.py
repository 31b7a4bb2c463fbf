"""Aligns a layer's input with tokens: valid rows, and the sample and position of each.

A layer's input becomes rows (V, D), one per valid token. Padding is left out here and nowhere else.
Positions count a sample's real tokens from 0, so left padding does not shift them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    B is the batch size, T the number of tokens per row in this forward pass, and S that number plus the
    cached tokens. `real` (B, S) bool is False for padding. It also covers earlier tokens of a key-value
    cache. `valid` (B, T) bool marks the tokens that count among the last T. A special token that is
    excluded is real but not valid; it still takes a position. `ids` (B, T) are the token ids, None if
    they are not needed or not known. Late positions share `bins`; None means that they do not. `texts`
    (B, T) numbers the samples if several share a row, one after the other; it is None if each row is one
    sample. `left_out` has the real tokens (B, T) that rules left out, by rule.
    """

    real: Tensor
    valid: Tensor
    ids: Tensor | None = None
    bins: Bins | None = None
    texts: Tensor | None = None
    left_out: Mapping[str, Tensor] = field(default_factory=dict)

    def current(self) -> Tensor:
        """Return which of the tokens of this forward pass are real, (B, T) bool."""
        return self.real[:, -self.valid.shape[1] :]

    def positions(self) -> Tensor:
        """Number each sample's real tokens from 0, (B, T); padding before the first token has 0, too."""
        # Counted over all S tokens, so that the positions continue after the cached tokens.
        numbers = (self.real.cumsum(1) - 1).clamp(min=0)[:, -self.valid.shape[1] :]
        if self.texts is None:
            return numbers
        # Each text of a row starts at position 0: subtract the number at which the text begins.
        begins = self.texts.diff(dim=1, prepend=self.texts[:, :1]) > 0
        return numbers - numbers.where(begins, 0).cummax(1).values

    def to(self, device: torch.device) -> "TokenMask":
        """Return the mask on another device."""
        ids = None if self.ids is None else self.ids.to(device)
        texts = None if self.texts is None else self.texts.to(device)
        return TokenMask(self.real.to(device), self.valid.to(device), ids, self.bins, texts)


@dataclass(frozen=True)
class Alignment:
    """The rows of a layer's input that count, and the sample and position of each.

    `index` selects these V rows from all rows. `sample` and `position` label them. The rows of one sample
    are adjacent, and samples are numbered from 0 without gaps. `batch_row` (G,) is the batch row of each
    sample, or the number of its text if several texts share a row. A `layout` of None means that the axes
    could not be identified: every row counts, and its sample and position are unknown. `sure` is False if
    sizes coincide, so that another layout was possible. `token_ids` (V,) is the token id of each row, None if
    ids are not needed or not known. With `bins`, `position` labels rows by their bins, and `number` (V,)
    holds the positions themselves.
    """

    layout: str | None
    index: Tensor | slice
    sample: Labels
    position: Labels
    batch_row: Tensor
    sure: bool = True
    token_ids: Tensor | None = None
    bins: Bins | None = None
    number: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """The position of each row, (V,), also where positions share bins."""
        return self.position.group if self.number is None else self.number

    @property
    def positioned(self) -> bool:
        """Whether rows have positions; False if there is one row per sample, or no layout."""
        return self.layout is not None and self.layout != POOLED

    @property
    def by_text(self) -> bool:
        """Whether samples are the batch's texts, each with its own tokens."""
        return self.layout is not None and not is_own_sequence(self.layout)

    def take(self, rows: Tensor, scratch: Scratch | None = None, name: str = "") -> Tensor:
        """Return the rows (V, D) that count of `rows` (R, D): a view, a `scratch` block or a new tensor."""
        if isinstance(self.index, slice):
            return rows[self.index]
        out = None if scratch is None else scratch.block(name, rows, len(self.index))
        return torch.index_select(rows, 0, self.index, out=out)

    @cached_property
    def numbers(self) -> Tensor:
        """Return the row numbers of the rows that count, (V,)."""
        if not isinstance(self.index, slice):
            return self.index
        start, group = self.index.start or 0, self.sample.group
        return torch.arange(start, start + len(group), device=group.device)

    @cached_property
    def total(self) -> Tensor:
        """The number of rows that count, (1, 1) float64."""
        return self.sample.count.sum(0, keepdim=True)

    def keep(self, chosen: Tensor) -> "Alignment":
        """Return the alignment of only those of its rows that are `chosen`, (V,) bool."""
        return self._relabelled(self.numbers[chosen], chosen)

    def parts(self, size: int) -> "list[Alignment]":
        """Cut at sample boundaries into parts of about `size` rows; each part numbers its samples from 0."""
        # Never within a sample: its sums and its median need all of its rows at once.
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
        token_ids = None if self.token_ids is None else self.token_ids[chosen]
        sample, position = self.sample.group[chosen], self.positions[chosen]
        counted = _labelled(self.layout, index, sample, position, token_ids, self.bins)
        return replace(counted, batch_row=self.batch_row[counted.batch_row])


def align(
    lead: tuple[int, ...],
    mask: TokenMask | None,
    feature_axis: int,
    device: torch.device,
    known: str | None = None,
    samples: int | None = None,
) -> Alignment:
    """Label the rows of an input; `lead` is the sizes of its axes other than the features.

    With a mask, the axes are matched against the mask's (B, T). If they are not the axes of its tokens,
    but one of them holds the B samples, the other axes are the layer's own sequence, N: pooled or added
    tokens, or windows. All rows of such a sequence count, padding included. Without a mask, the axes are
    matched against the number of `samples`. If that is unknown too, the first axis is the sample, and the
    other axes, in order, are the position.

    If sizes coincide and several layouts match, the layout `known` from another call is chosen, otherwise
    the first one, and the alignment is not `sure`. With a mask, a layer `known` as UNALIGNED stays
    unaligned, even if sizes happen to match.
    """
    rows = torch.arange(math.prod(lead), device=device).reshape(lead or (1,))
    if known == UNALIGNED and mask is not None:
        return _one_by_one(None, rows)
    if mask is None and (samples is None or rows.dim() == 1):
        return _without_mask(rows, feature_axis)
    tokens: dict[str, Order] = {}
    # A layer that once had a sequence of its own keeps it, even where the sizes happen to match the tokens.
    if mask is not None and not is_own_sequence(known):
        tokens = token_layouts(lead, mask.valid.shape, feature_axis)
    samples = samples if mask is None else len(mask.valid)
    letter = "T" if mask is None else "N"
    layouts = tokens or sequence_layouts(lead, samples or 1, feature_axis, letter)
    if not layouts:
        return _one_by_one(None, rows)
    layout = known if known in layouts else next(iter(layouts))
    # With one row, or one sample in a sequence of its own, all layouts give the same labels.
    sure = len(layouts) == 1 or rows.numel() == 1 or (samples == 1 and not tokens)
    if layout == POOLED:
        return replace(_one_by_one(POOLED, rows), sure=sure)
    order = layouts[layout](rows)
    where = _with_mask(layout, order, mask.to(device)) if tokens and mask else _in_order(layout, order)
    return replace(where, sure=sure)


def fits(lead: tuple[int, ...], mask: TokenMask) -> bool:
    """Whether axes of the sizes `lead` can be those of the mask's tokens."""
    return bool(token_layouts(lead, mask.valid.shape))


def _with_mask(layout: str, order: Tensor, mask: TokenMask) -> Alignment:
    valid = mask.valid[:, :, None].expand_as(order)
    rows = torch.arange(order.shape[0], device=order.device)[:, None]
    labels = (rows if mask.texts is None else mask.texts)[:, :, None].expand_as(order)
    positions = mask.positions()[:, :, None].expand_as(order)
    counted = order[valid]
    # If all rows count, in order, a slice selects them without a copy.
    all_count = torch.equal(counted, torch.arange(order.numel(), device=order.device))
    token_ids = None if mask.ids is None else mask.ids[:, :, None].expand_as(order)[valid]
    index = _ALL if all_count else counted
    return _labelled(layout, index, labels[valid], positions[valid], token_ids, mask.bins)


def _without_mask(rows: Tensor, feature_axis: int) -> Alignment:
    if rows.dim() == 1:
        return _one_by_one(POOLED, rows)
    return _in_order(plain_layout(rows.dim(), feature_axis), rows.flatten(1))


def _in_order(layout: str, order: Tensor) -> Alignment:
    """Label rows, of which `order` (B, N) holds the numbers: all of them count, at positions 0 to N - 1."""
    sample = torch.arange(len(order), device=order.device)[:, None].expand_as(order).flatten()
    position = torch.arange(order.shape[1], device=order.device)[None].expand_as(order).flatten()
    index = order.flatten()
    in_order = torch.equal(index, torch.arange(len(index), device=index.device))
    return _labelled(layout, _ALL if in_order else index, sample, position)


def _one_by_one(layout: str | None, rows: Tensor) -> Alignment:
    """Label rows that are not tokens: each row is a sample of its own, and its position is unknown."""
    return _labelled(layout, _ALL, rows.flatten(), torch.zeros_like(rows.flatten()))


def _labelled(
    layout: str | None,
    index: Tensor | slice,
    sample: Tensor,
    position: Tensor,
    token_ids: Tensor | None = None,
    bins: Bins | None = None,
) -> Alignment:
    # Renumbered, so that a sample without a valid row does not become an empty group.
    batch_row, sample = torch.unique_consecutive(sample, return_inverse=True)
    cells = Labels.of(position if bins is None else bins.of(position))
    # The bins label the rows; the positions are needed once more where rows are selected from these.
    number = None if bins is None else position
    return Alignment(layout, index, Labels.of(sample), cells, batch_row, True, token_ids, bins, number)
