"""Result of `inspect`: the residual stream along the blocks of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from normscope.results.base import Record


@dataclass(frozen=True, eq=False)
class ResidualSize(Record):
    """Root mean square of the stream over tokens and features, and its ratio to that a block before."""

    rms: float
    growth: float


@dataclass(frozen=True, eq=False)
class ResidualTotal(Record):
    """The rms at the last norm of a profile over that at the first; NaN with fewer than two."""

    total: float


@dataclass(frozen=True, eq=False)
class DepthPoint(Record):
    """The stream at the input of one norm, the layer `name`.

    `block` counts from 0; it is None behind the blocks. `kurtosis` in [1, D] is that of the features' root
    mean squares. `mean_share` and `agreement` (view `feature`) are the layer's.
    """

    name: str
    block: int | None
    residual: ResidualSize
    mean_share: float
    kurtosis: float
    agreement: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class DepthProfile(Record):
    """The stream along one stack of blocks, such as an encoder, at the norms that read it.

    `name` is the stack's in the model, `blocks` the number of its blocks. `first_massive` is the first
    layer of the `points` with massive activations, None without any. `left_out` says which norms of the
    stack have no point, and why.
    """

    name: str
    blocks: int
    residual: ResidualTotal
    first_massive: str | None
    points: tuple[DepthPoint, ...]
    left_out: tuple[str, ...]
