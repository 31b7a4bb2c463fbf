"""Buffers: blocks of memory that every batch uses again, and a bounded backlog of sums of batches."""

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

# Approximate memory of a tensor, in bytes, in addition to its elements.
OVERHEAD = 500
# A backlog is full above this many bytes, but never with fewer than this many batches.
FULL_BYTES, FEW = 1 << 17, 16


# The number of owners whose layouts are kept.
_KEPT = 8

Kept = TypeVar("Kept")


class Scratch:
    """Named blocks of memory; each block is as large as the largest request for it so far.

    Allocating a new block for each batch costs as much time as the arithmetic in it. A request for a name
    overwrites what its block held before.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._kept: dict[tuple[Hashable, int], tuple[object, Any]] = {}

    def block(self, name: str, like: Tensor, rows: int | None = None) -> Tensor:
        """Return the block `name`, with the dtype and shape of `like` (V, D), or with this many `rows`."""
        shape = (len(like) if rows is None else rows, *like.shape[1:])
        key, size = (name, like.dtype, like.device), math.prod(shape)
        block = self._blocks.get(key)
        if block is None or block.numel() < size:
            block = self._blocks[key] = like.new_empty(size)
        return block[:size].view(shape)

    def kept(self, key: Hashable, owner: object, make: Callable[[], Kept]) -> Kept:
        """Return what `make` gave for this key and this `owner`, if they are among the last ones."""
        place = (key, id(owner))
        if place not in self._kept:
            if len(self._kept) == _KEPT:
                self._kept.clear()
            # The owner is kept, too, so that no other object gets its id.
            self._kept[place] = (owner, make())
        kept: Kept = self._kept[place][1]
        return kept


class Backlog:
    """Tensors of many batches, the same number from each batch, until `take` removes them all."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether the tensors should be taken now."""
        return self._bytes > FULL_BYTES and len(self._batches) >= FEW

    def add(self, *tensors: Tensor) -> None:
        """Add the tensors of one batch."""
        self._batches.append(tensors)
        self._bytes += sum(tensor.nbytes + OVERHEAD for tensor in tensors)

    def take(self) -> list[tuple[Tensor, ...]]:
        """Return the first tensors of all batches, the second ones, and so on; empty the backlog."""
        batches, self._batches, self._bytes = self._batches, [], 0
        return [*zip(*batches, strict=True)]
