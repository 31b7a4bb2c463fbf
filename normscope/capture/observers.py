"""Observers: what a run may collect at a layer in addition to its sums, from the rows of each batch."""

from typing import NamedTuple, Protocol

from torch import Tensor

from normscope.norms.detection import NormLayer
from normscope.statistics.alignment import Alignment
from normscope.statistics.curve_histogram import CurveHistogram
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import Labels, Moments, Rows
from normscope.statistics.token_identity import TokenMoments, TokenRoom


class BatchRows(NamedTuple):
    """A layer's data of a batch: its input `rows`, its own y (V, D), and the moments of x by sample."""

    norm: NormLayer
    rows: Rows
    y: Tensor
    samples: Moments
    where: Alignment


class Observer(Protocol):
    """Collects something from the rows of every batch at a layer."""

    def observe(self, batch: BatchRows, state: LayerState, /) -> None:
        """Take what it needs from a batch, which the layer's `state` has already added."""
        ...


class TokenIdentity:
    """Collects moments by token id into a layer's moments."""

    def __init__(self, room: TokenRoom) -> None:
        self._room = room

    def observe(self, batch: BatchRows, state: LayerState, /) -> None:
        """Add the rows of a batch to the moments of their token ids."""
        moments, ids = state.moments, batch.where.token_ids
        if moments is None or ids is None:
            return
        if moments.words is None:
            features = moments.features
            moments.words = TokenMoments(features, self._room.ids(features), moments.output.mean.device)
        moments.words.add(batch.rows.x, ids)


class ElementCounts:
    """Counts elements by input and output into a layer's moments."""

    def observe(self, batch: BatchRows, state: LayerState, /) -> None:
        """Add the elements of a batch."""
        if state.moments is not None:
            state.moments.curve = state.moments.curve or CurveHistogram(batch.y.device)
            state.moments.curve.add(batch.rows.x, batch.y)


class RowScales:
    """Collects the moments of the factor by which a layer multiplies each row into the layer's state.

    They are (2, 1): those at position 0 of a sample, and those after it.
    """

    def observe(self, batch: BatchRows, state: LayerState, /) -> None:
        """Add the factors of a batch, if the formula of the layer has one for each row."""
        formula = batch.norm.formula
        if formula is None or not formula.is_plain:
            return
        state.scales = state.scales or Moments.empty(2, 1)
        later = Labels.of((batch.where.positions > 0).long())
        state.scales.merge(Moments.by_group(formula.row_scale(batch.rows).double(), later).to("cpu"))
