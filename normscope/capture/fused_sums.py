"""Sums of one call in a single compiled pass, where numba is installed; equal to those of batch_sums."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from normscope.capture.batch_sums import BatchSums, CellSums, SampleSummary
from normscope.norms.detection import NormLayer
from normscope.statistics.alignment import Alignment
from normscope.statistics.buffers import Scratch
from normscope.statistics.moments import Labels
from normscope.statistics.outliers import LARGE, MASSIVE, MEDIANS

# A layer that has seen fewer elements than this has little to save: to load what is compiled takes a second.
AFTER = 1 << 23


@cache
def _kernels() -> Any:
    try:
        from normscope.capture import numba_kernels as kernels
    except ImportError:  # Not installed, or not made for this NumPy.
        return None
    return kernels


@dataclass(frozen=True)
class _CompiledSums(CellSums):
    """Sums in the dtype of x or, where cells have many rows, float64; in memory that is used again."""

    @classmethod
    def room(cls, name: str, labels: Labels, x: Tensor, scratch: Scratch) -> "_CompiledSums":
        """Return room for the sums over these cells of x's rows (R, D)."""
        shape = (len(labels.count), x.shape[1])
        pivot = _block(scratch, f"{name} pivot", shape, x.dtype)
        sums = _block(scratch, f"{name} sums", (4, *shape), torch.float64 if labels.many else x.dtype)
        return cls(labels.count, pivot, sums)

    def add_to(self, pivot: Tensor, sums: Tensor, count: Tensor) -> None:
        """Add them to the first cells of others (2 or 4, G, D), around their `pivot` (G, D)."""
        _kernels().move(*_arrays(self.count, self.pivot, self.sums, pivot, sums, count))


class OnePass(NamedTuple):
    """What one pass over V rows x and a layer's output tells.

    `massive` names the samples that may have massive elements. `worst` is the largest
    |affine(y) - output|, `square` the sum of output^2, `large` (D,) in how many rows |output| is large,
    and `largest` (D,) its maximum. Sums by position and of outputs are in memory that is used again.
    """

    sums: BatchSums
    massive: list[int]
    worst: float
    square: float
    large: Tensor
    largest: Tensor


def suits(norm: NormLayer, x: Tensor, tokens: int) -> bool:
    """Whether a call of a layer is taken in one pass, whose input is x (R, D) after so many tokens.

    That follows from the run alone, so that one that goes on from a checkpoint does as an unbroken one.
    """
    if x.device.type != "cpu" or not norm.settled or tokens * norm.features < AFTER:
        return False
    formula = norm.formula
    return formula is not None and formula.is_plain and not formula.bare and _kernels() is not None


def one_pass(
    norm: NormLayer, eps: float, x: Tensor, output: Tensor, where: Alignment, scratch: Scratch
) -> OnePass | None:
    """Take the rows (R, D) of a layer's input and output that count; None where one is not finite.

    `eps` is that of the samples' own normalizations.
    """
    kernels = _kernels()
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    token = x.new_empty(len(where.sample.group), 2)
    position = _CompiledSums.room("position", where.position, x, scratch)
    sample = _CompiledSums.room("sample", where.sample, x, scratch)
    samples, cells = _summary(sample), _block(scratch, "cells", (2, *sample.pivot.shape), torch.float64)
    pivot, worst, largest = _block(scratch, "output", (3, 1, x.shape[1]), x.dtype)
    moved = _block(scratch, "moved", (2, 1, x.shape[1]), torch.float64)
    large = _block(scratch, "large", (1, x.shape[1]), torch.int32)
    finite, massive, gap, square = kernels.take(
        *_arrays(x, output.to(x.dtype).contiguous(), where.numbers, token),
        _way(norm, x),
        kernels.CellBuffers(
            *_arrays(where.position.group, where.position.pivot, position.pivot, position.sums)
        ),
        kernels.CellBuffers(*_arrays(where.sample.group, where.sample.pivot, sample.pivot, sample.sums)),
        kernels.Samples(*_arrays(sample.count, *cells, *samples), eps),
        kernels.OutputBuffers(
            *_arrays(pivot[0], moved[0, 0], moved[1, 0], worst[0], largest[0], large[0]), LARGE
        ),
        MASSIVE,
        MEDIANS,
    )
    if not finite:
        return None
    sums = BatchSums(token, position, _CompiledSums(where.total, pivot, moved), samples)
    return OnePass(sums, massive.nonzero()[0].tolist(), gap, square, large[0], largest[0])


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def _block(scratch: Scratch, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    like = torch.empty(0, shape[-1], dtype=dtype)
    return scratch.block(name, like, math.prod(shape[:-1])).view(shape)


def _way(norm: NormLayer, x: Tensor) -> Any:
    formula = norm.formula
    assert formula is not None
    affine = formula.weight_and_bias(norm.module, x.shape[1], x.dtype)
    return _kernels().Way(formula.kind == "layernorm", formula.eps, *_arrays(*affine))


def _summary(sample: CellSums) -> SampleSummary:
    """Return room for what is left of a batch's samples."""
    shapes = ((2, 4), (2,), (len(sample.count), 4), (1, sample.pivot.shape[1]))
    return SampleSummary(*(torch.empty(shape, dtype=torch.float64) for shape in shapes))
