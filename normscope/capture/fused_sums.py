"""Sums of one call in a single compiled pass, where numba is installed; equal to those of the operators."""

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from normscope.norms.detection import NormLayer
from normscope.statistics.alignment import Alignment
from normscope.statistics.batch_summary import BatchSummary, BatchSums, CellSums, OutputErrors, SampleSummary
from normscope.statistics.buffers import Scratch
from normscope.statistics.extremes import Peaks
from normscope.statistics.moments import Labels
from normscope.statistics.outliers import LARGE, MASSIVE, MEDIANS, BatchOutliers, MassiveElements

if TYPE_CHECKING:
    from normscope.capture.numba_kernels import CellBuffers, OutputBuffers, Way

# With fewer elements than this a layer saves too little time: loading the compiled code takes a second.
AFTER = 1 << 23


@cache
def _has_kernels() -> bool:
    """Whether the compiled loops can be loaded; this takes a second."""
    try:
        import normscope.capture.numba_kernels  # noqa: F401
    except ImportError:  # numba is not installed, or not made for this NumPy.
        return False
    return True


@dataclass(frozen=True)
class _CompiledSums(CellSums):
    """Sums in the dtype of x, or in float64 where cells have many rows; the buffers are reused."""

    def add_to(self, pivot: Tensor, sums: Tensor, count: Tensor) -> None:
        """Add these sums to the first cells of other sums (2 or 4, G, D), around their `pivot` (G, D)."""
        from normscope.capture import numba_kernels as kernels

        kernels.move(*_arrays(self.count, self.pivot, self.sums, pivot, sums, count))


@dataclass(frozen=True)
class _Workspace:
    """Buffers for the calls whose rows are aligned in one way, in tensors and as arrays of the same memory.

    All layers of a width share it in a forward; every call overwrites it.
    """

    position: _CompiledSums
    output: _CompiledSums
    outliers: tuple[Tensor, Tensor, Tensor]
    numbers: np.ndarray
    position_cells: "CellBuffers"
    sample_cells: "CellBuffers"
    samples: tuple[np.ndarray, np.ndarray, np.ndarray]
    buffers: "OutputBuffers"

    @classmethod
    def of(cls, where: Alignment, x: Tensor, scratch: Scratch) -> "_Workspace":
        """Lay out buffers for rows x (R, D)."""
        from normscope.capture import numba_kernels as kernels

        position, sample = (
            _sums(name, labels, x, scratch)
            for name, labels in (("position", where.position), ("sample", where.sample))
        )
        pivot, worst, largest, peak = _block(scratch, "output", (4, 1, x.shape[1]), x.dtype)
        moved = _block(scratch, "moved", (2, 1, x.shape[1]), torch.float64)
        large = _block(scratch, "large", (1, x.shape[1]), torch.int32)
        means, variances = _block(scratch, "cells", (2, *sample.pivot.shape), torch.float64)
        position_cells, sample_cells = (
            kernels.CellBuffers(*_arrays(labels.group, labels.pivot, sums.pivot, sums.sums))
            for labels, sums in ((where.position, position), (where.sample, sample))
        )
        features = _arrays(pivot[0], moved[0, 0], moved[1, 0], worst[0], largest[0], large[0], peak[0])
        rows, mean, variance = _arrays(sample.count, means, variances)
        return cls(
            position,
            _CompiledSums(where.total, pivot, moved),
            (large[0], largest[0], peak[0]),
            where.numbers.numpy(),
            position_cells,
            sample_cells,
            (rows, mean, variance),
            kernels.OutputBuffers(LARGE, *features),
        )


def suits(norm: NormLayer, x: Tensor, tokens: int) -> bool:
    """Whether a call with input x (R, D), after `tokens` earlier tokens, is summed in one pass.

    No timing is involved: a run that continues from a checkpoint decides as an uninterrupted run does.
    """
    if x.device.type != "cpu" or not norm.settled or not tokens or tokens * norm.features < AFTER:
        return False
    formula = norm.formula
    return formula is not None and formula.is_plain and not formula.bare and _has_kernels()


def one_pass(
    norm: NormLayer, eps: float, x: Tensor, output: Tensor, where: Alignment, scratch: Scratch
) -> BatchSummary | None:
    """Summarise the counted rows of a layer's input and output (R, D); None if an element is not finite.

    `eps` is the eps of the normalization by sample.
    """
    from normscope.capture import numba_kernels as kernels

    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    out = output.to(x.dtype).contiguous()
    work = scratch.kept((x.shape, x.dtype), where, lambda: _Workspace.of(where, x, scratch))
    token, samples = x.new_empty(len(work.numbers), 2), _summary(len(work.samples[0]), x.shape[1])
    finite, massive, gap, square = kernels.sum_call(
        x.numpy(),
        out.numpy(),
        work.numbers,
        token.numpy(),
        _row_formula(norm, x),
        work.position_cells,
        work.sample_cells,
        kernels.Samples(eps, *work.samples, *_arrays(*samples)),
        work.buffers,
        MASSIVE,
        MEDIANS,
    )
    if not finite:
        return None
    found = None
    if massive.any():
        found = MassiveElements.of(where.take(x), where, massive.nonzero()[0].tolist())
    (gaps, norms), (large, largest, peak) = torch.tensor([[[gap]], [[square**0.5]]]).double(), work.outliers
    return BatchSummary(
        0,
        BatchSums(token, where.position.group, work.position, work.output, samples, eps),
        BatchOutliers(len(token), large, largest, found),
        Peaks(peak, x, where, where.numbers),
        Peaks(largest, out, where, where.numbers),
        OutputErrors(gaps[0], norms[0], len(token) * x.shape[1], torch.finfo(output.dtype).eps),
    )


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _sums(name: str, labels: Labels, x: Tensor, scratch: Scratch) -> _CompiledSums:
    """Return buffers for the sums of the rows x (R, D) over the cells of `labels`."""
    shape = (len(labels.count), x.shape[1])
    pivot = _block(scratch, f"{name} pivot", shape, x.dtype)
    sums = _block(scratch, f"{name} sums", (4, *shape), torch.float64 if labels.many else x.dtype)
    return _CompiledSums(labels.count, pivot, sums)


def _block(scratch: Scratch, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    like = torch.empty(0, shape[-1], dtype=dtype)
    return scratch.block(name, like, math.prod(shape[:-1])).view(shape)


def _row_formula(norm: NormLayer, x: Tensor) -> "Way":
    from normscope.capture.numba_kernels import Way

    formula = norm.formula
    assert formula is not None
    affine = formula.weight_and_bias(norm.module, x.shape[1], x.dtype)
    return Way(formula.kind == "layernorm", formula.eps, *_arrays(*affine))


def _summary(samples: int, features: int) -> SampleSummary:
    """Return memory for the summary of the samples of a batch."""
    sizes = (8, 2, 4 * samples, features)
    spread, likeness, sequence, within = torch.empty(sum(sizes), dtype=torch.float64).split_with_sizes(sizes)
    return SampleSummary(spread.view(2, 4), likeness, sequence.view(-1, 4), within.view(1, -1))
