"""Reusable buffers: allocating a new block each batch costs as much as the arithmetic in it."""

import math

import torch
from torch import Tensor


class Scratch:
    """Named blocks of memory; each block is as large as the largest request for it so far.

    A request for a name overwrites what its block held before.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def block(self, name: str, like: Tensor, rows: int | None = None) -> Tensor:
        """Return the block `name`, with the dtype and shape of `like` (V, D), or with this many `rows`."""
        shape = (len(like) if rows is None else rows, *like.shape[1:])
        key, size = (name, like.dtype, like.device), math.prod(shape)
        known = self._blocks.get(key)
        if known is None or known.numel() < size:
            known = self._blocks[key] = like.new_empty(size)
        return known[:size].view(shape)
