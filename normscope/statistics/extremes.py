"""Extremes: the largest |value| of a layer's input and of its output, with its place, and of each feature."""

from typing import NamedTuple

import torch
from torch import Tensor

from normscope.statistics.alignment import Alignment

# The number in a place that is unknown.
UNKNOWN = -1


class Peaks(NamedTuple):
    """The rows of one batch and the maximum of |value| of each feature over them.

    `rows` (R, D) are all rows of the call if `chosen` (V,) selects those that count, else (V, D) those alone.
    `largest` (D,) is over the rows that count. The rows are valid until the layer's next call.
    """

    largest: Tensor
    rows: Tensor
    where: Alignment
    chosen: Tensor | None = None

    def place(self, feature: Tensor) -> Tensor:
        """Return the place of the largest |value| of this feature (): feature, position, token id, (3,)."""
        column = self.rows.index_select(1, feature[None])[:, 0]
        column = column if self.chosen is None else column[self.chosen]
        row = column.abs().argmax()
        places = (self.where.positions if self.where.positioned else None, self.where.token_ids)
        numbers = [torch.full_like(row, UNKNOWN) if of is None else of.take(row) for of in places]
        return torch.stack([feature, *numbers])


class LargestValue:
    """The largest |value|, (), and its `place`: feature, position and token id, (3,) int64, -1 if unknown.

    It is 0 before any value, and NaN if a part is from a file of an earlier version.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.value = torch.zeros((), dtype=torch.float64, device=device)
        self.place = torch.full((3,), UNKNOWN, dtype=torch.int64, device=device)

    def add(self, peaks: Peaks) -> None:
        """Add a batch; without a GPU, its rows are searched only if it has a new largest value."""
        # A feature with NaN in the output has no largest value.
        value, feature = peaks.largest.nan_to_num(nan=0.0, posinf=torch.inf).max(0)
        if _reads_at_once(value) and not bool(value > self.value):
            return
        self._take(value.double(), peaks.place(feature))

    def merge(self, new: "LargestValue") -> None:
        """Add `new`; of two equal values, the one of the lower feature, position and token id stays."""
        self._take(new.value, new.place)

    def _take(self, value: Tensor, place: Tensor) -> None:
        base = torch.tensor([1 << 40, 1 << 20, 1], device=place.device)
        earlier = (place * base).sum() < (self.place * base).sum()
        better = (value > self.value) | ((value == self.value) & earlier)
        self.place = torch.where(better, place, self.place)
        self.value = torch.maximum(self.value, value)  # NaN, the unknown, stays.


class LargestValues:
    """The largest values of a layer: of its `input`, of its `output`, and of each `feature` of x, (D,)."""

    def __init__(self, features: int, device: torch.device | str = "cpu") -> None:
        self.input, self.output = LargestValue(device), LargestValue(device)
        self.feature = torch.zeros(features, dtype=torch.float64, device=device)

    def add(self, inputs: Peaks, outputs: Peaks | None) -> None:
        """Add a batch; `outputs` is None if the layer's output is unknown."""
        self.input.add(inputs)
        torch.maximum(self.feature, inputs.largest, out=self.feature)
        if outputs is not None:
            self.output.add(outputs)

    def merge(self, new: "LargestValues") -> None:
        """Add `new`."""
        self.input.merge(new.input)
        self.output.merge(new.output)
        self.feature = torch.maximum(self.feature, new.feature)


def _reads_at_once(value: Tensor) -> bool:
    """Whether the host need not wait to read a number: of a GPU, it waits for all work before it."""
    return value.device.type == "cpu"
