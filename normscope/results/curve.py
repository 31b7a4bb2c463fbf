"""Result of `inspect --curve`: one layer's output against its input, as a two-dimensional histogram."""

from dataclasses import dataclass

import numpy as np

from normscope.errors import ReportError
from normscope.results.base import Record
from normscope.results.common import Counts

BINS = 64


@dataclass(frozen=True, eq=False)
class InputOutputCurve(Record):
    """The elements (x, y) of a layer, y before its affine, counted in 64 x 64 bins of equal width.

    The bins of x go from -`input_limit` to `input_limit`, those of y from -`output_limit` to
    `output_limit`, both powers of two; `beyond` is the number of elements outside. `input_bin`,
    `output_bin`, from 0, and `count` list the bins that are not empty, (C,). A bin [a, b) begins at
    a = (bin / 32 - 1) * limit. Zhu et al. 2025, arXiv 2503.10622, figure 2, draw such elements.
    """

    input_limit: float
    output_limit: float
    beyond: int
    input_bin: Counts
    output_bin: Counts
    count: Counts

    def __post_init__(self) -> None:
        bins = [*self.input_bin.tolist(), *self.output_bin.tolist()]
        if len({len(self.input_bin), len(self.output_bin), len(self.count)}) > 1:
            raise ReportError("the lists of a curve differ in length; expected one length")
        possible = set(bins) <= {*range(BINS)} and bool((self.count > 0).all())
        if not (possible and self.input_limit > 0 and self.output_limit > 0):
            raise ReportError(f"a curve has impossible bins; expected 0 to {BINS - 1}, counts, limits over 0")

    def histogram(self) -> Counts:
        """Return the counts of all bins, (64, 64): the bins of x, then those of y."""
        counts = np.zeros((BINS, BINS), dtype=np.int64)
        counts[self.input_bin, self.output_bin] = self.count
        return counts
