"""A bounded backlog: sums of batches that wait to be folded, limited in bytes."""

from torch import Tensor

# Approximate memory of a tensor, in bytes, besides its elements.
OVERHEAD = 500
# A backlog is full above this many bytes, but never with fewer than this many batches.
MOST, FEW = 1 << 17, 16


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
        return self._bytes > MOST and len(self._batches) >= FEW

    def add(self, *tensors: Tensor) -> None:
        """Add the tensors of one batch."""
        self._batches.append(tensors)
        self._bytes += sum(tensor.nbytes + OVERHEAD for tensor in tensors)

    def take(self) -> list[tuple[Tensor, ...]]:
        """Return the first tensors of all batches, the second ones, and so on; empty the backlog."""
        taken = [*zip(*self._batches, strict=True)]
        self._batches, self._bytes = [], 0
        return taken
