"""Reusable buffers: allocating a new block each batch costs as much as the arithmetic in it."""

import math

import torch
from torch import Tensor


class Scratch:
    """Named blocks of memory, each as large as it had to be so far.

    What a block holds is lost when the same name is asked for again.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def block(self, name: str, like: Tensor, rows: int | None = None) -> Tensor:
        """Return the block of this name in the dtype and shape of `like` (V, D), or with so many `rows`."""
        shape = (len(like) if rows is None else rows, *like.shape[1:])
        key, size = (name, like.dtype, like.device), math.prod(shape)
        known = self._blocks.get(key)
        if known is None or known.numel() < size:
            known = self._blocks[key] = like.new_empty(size)
        return known[:size].view(shape)
