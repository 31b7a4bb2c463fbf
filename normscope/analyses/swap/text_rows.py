"""The texts that the rows of a layer's input belong to, and averages over each of them."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normscope.capture.scope import Scope
from normscope.errors import UsageError
from normscope.norms.detection import NormLayer
from normscope.statistics.alignment import Alignment
from normscope.statistics.layout import POOLED, lead_axes


@dataclass(frozen=True)
class TextRows:
    """The text of each of R rows, and the rows that count in the statistics of their text.

    `text` (R,) numbers the `texts` texts from 0. `counted` (R, 1) bool is False for padding and for special
    tokens that are excluded; in a text without another row, all rows count. `first` (R, 1) bool marks the
    rows at position 0 of their text, which is its first token that is no padding.
    """

    text: Tensor
    counted: Tensor
    first: Tensor
    texts: int

    @classmethod
    def of(cls, norm: NormLayer, x: Tensor, scope: Scope, layout: str | None) -> "TextRows":
        """Find the texts of a layer's input x; UsageError if its rows cannot be assigned to texts."""
        lead = lead_axes(tuple(x.shape), norm.feature_axis, norm.features) or ()
        size = math.prod(lead)
        parts = scope.parts(lead, norm.feature_axis, size, x.device, layout, every=True)
        if not parts or not _has_texts(parts[0], scope):
            raise UsageError(
                f"{norm.name}: the rows of its input {tuple(x.shape)} cannot be assigned to texts; "
                "expected one row for each token; leave it out, see --exclude"
            )
        text = torch.empty(size, dtype=torch.int64, device=x.device)
        text[parts[0].numbers] = parts[0].sample.group
        first = torch.zeros(size, 1, dtype=torch.bool, device=x.device)
        first[parts[0].numbers] = (parts[0].positions == 0)[:, None]
        counted = torch.zeros(size, 1, dtype=torch.bool, device=x.device)
        for part in scope.parts(lead, norm.feature_axis, size, x.device, layout):
            counted[part.numbers] = True
        whole = cls(text, counted, first, len(parts[0].batch_row))
        return replace(whole, counted=counted | (whole._sums(counted.float()) == 0))

    def means(self, values: Tensor) -> Tensor:
        """Return for each row the mean of the values (R, 1) of its text's rows that count, (R, 1)."""
        # Padding may be NaN, so it is not multiplied by 0.
        return self._sums(values.where(self.counted, 0)) / self._sums(self.counted.to(values.dtype))

    def _sums(self, values: Tensor) -> Tensor:
        """Return for each row the sum of the values (R, 1) of its text, (R, 1)."""
        return values.new_zeros(self.texts, 1).index_add(0, self.text, values)[self.text]


def _has_texts(rows: Alignment, scope: Scope) -> bool:
    """Whether the samples of an alignment are texts, or images or sounds."""
    if rows.layout == POOLED:  # Without tokens and samples, single rows are taken for samples.
        return scope.mask is not None or scope.samples is not None
    # The first axis of "(N0, ...)" is another than that of the samples.
    return rows.layout is not None and not rows.layout.startswith("(N0")
