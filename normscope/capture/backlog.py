"""A bounded backlog: sums of batches that wait to be folded, limited in bytes."""

from torch import Tensor

# A tensor takes about so many bytes beside its numbers.
OVERHEAD = 500
# One backlog holds so many bytes at most, or the numbers of so few batches, however large they are.
MOST, FEW = 1 << 17, 16


class Backlog:
    """Tensors of many batches, as many of each batch, until they are taken together."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def is_full(self) -> bool:
        """Whether it is time to take them."""
        return self._bytes > MOST and len(self._batches) >= FEW

    def add(self, *tensors: Tensor) -> None:
        """Add those of one batch."""
        self._batches.append(tensors)
        self._bytes += sum(tensor.nbytes + OVERHEAD for tensor in tensors)

    def take(self) -> list[tuple[Tensor, ...]]:
        """Return the first tensors of all batches, the second, and so on; there are none then."""
        taken = [*zip(*self._batches, strict=True)]
        self._batches, self._bytes = [], 0
        return taken
