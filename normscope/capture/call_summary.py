"""Summarises one call of a layer: by compiled loops where they can, else by PyTorch's operators."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from normscope.capture.fused_sums import one_pass, suits
from normscope.capture.observers import BatchRows
from normscope.norms.detection import NormLayer
from normscope.statistics.alignment import Alignment
from normscope.statistics.batch_summary import BatchSummary, BatchSums, OutputErrors
from normscope.statistics.buffers import Scratch
from normscope.statistics.extremes import Peaks
from normscope.statistics.moments import Rows
from normscope.statistics.outliers import BatchOutliers


class CallRows(NamedTuple):
    """The tensors of a call as rows: (R, D) of the call, or (V, D) after `take`; None where unknown.

    `x` is the input and `output` the layer's output. If each head has its own affine, `output` is the
    output before the affine and `final` the output after it. `factor` is the multiplier from a gate.
    """

    x: Tensor
    output: Tensor | None
    factor: Tensor | None = None
    final: Tensor | None = None

    def map(self, function: Callable[[Tensor, str], Tensor]) -> "CallRows":
        """Apply `function` to each tensor and its name, and return the results."""
        named = zip(self._fields, self, strict=True)
        x, *others = (None if values is None else function(values, name) for name, values in named)
        assert x is not None
        return CallRows(x, *others)


def summarise(
    norm: NormLayer, call: CallRows, where: Alignment, tokens: int, scratch: Scratch, *, observed: bool
) -> tuple[BatchSummary, BatchRows | None]:
    """Summarise the rows of a call that count, after `tokens` earlier tokens of the layer.

    The formula of the layer is settled by its first rows. If the layer is `observed`, the rows are returned,
    too, unless none is finite.
    """
    plain = call.factor is None and call.final is None and not observed
    if plain and call.output is not None and suits(norm, call.x, tokens):
        summary = one_pass(norm, _eps(norm), call.x, call.output, where, scratch)
        if summary is not None:
            return summary, None
    taken = call.map(lambda values, name: where.take(values, scratch, name))
    rows, nonfinite = Rows.of(taken.x, scratch), 0
    if not math.isfinite(rows.reach):
        rows = Rows.of(taken.x.double())  # In float32 the variance overflows for values above about 1e19.
        finite = rows.finite()
        nonfinite = int((~finite).sum())
        taken, where = taken.map(lambda values, _: values[finite]), where.keep(finite)
        rows = Rows.of(taken.x.double())
    if not len(rows.x):
        return BatchSummary(nonfinite, None), None
    return _by_operators(norm, rows, taken, where, nonfinite, scratch)


def _by_operators(
    norm: NormLayer, rows: Rows, call: CallRows, where: Alignment, nonfinite: int, scratch: Scratch
) -> tuple[BatchSummary, BatchRows]:
    """Summarise finite rows (V, D)."""
    if not norm.settled:
        _settle(norm, rows, call, where)
    errors, out = None, call.output
    if norm.formula is None or out is None:
        # NaN marks everything that needs y as unknown, without a special case in each sum.
        y = rows.x.new_full((1, 1), math.nan).expand_as(rows.x)
    else:
        # `spend` lets y reuse the memory of the centred rows, which nobody reads afterwards.
        y = norm.formula.normalise(norm.module, rows, where.sample, spend=True)
        expected = norm.formula.affine(norm.module, y, scratch.block("first", y))
        expected = expected if call.factor is None else expected * call.factor
        # `of` overwrites its first argument, which is y itself for a formula without an affine.
        errors = OutputErrors.of(expected.clone() if expected is y else expected, out)
    real = out if call.final is None else call.final
    sizes = None if real is None else torch.abs(real, out=scratch.block("first", real))
    # First, because the sums overwrite `sizes`, which is a scratch block.
    outliers = BatchOutliers.of(rows, sizes, where)
    outputs = None if real is None or outliers.largest is None else Peaks(outliers.largest, real, where)
    inputs = Peaks(torch.linalg.vector_norm(rows.x, math.inf, 0), rows.x, where)
    sums, samples = BatchSums.of(rows, y, where, _eps(norm), scratch)
    summary = BatchSummary(nonfinite, sums, outliers, inputs, outputs, errors)
    return summary, BatchRows(norm, rows, y, samples.moments(), where)


def _settle(norm: NormLayer, rows: Rows, call: CallRows, where: Alignment) -> None:
    """Settle the formula by the rows with finite output; an output that overflowed fits no formula."""
    out, factor = call.output, call.factor
    finite = None if out is None else out.isfinite().all(1)
    if out is not None and finite is not None and not bool(finite.all()):
        if not bool(finite.any()):
            return
        rows, out, where = Rows.of(rows.x[finite]), out[finite], where.keep(finite)
        factor = None if factor is None else factor[finite]
    norm.settle(rows, out, where.sample, factor)


def _eps(norm: NormLayer) -> float:
    return 0.0 if math.isnan(norm.eps) else norm.eps
