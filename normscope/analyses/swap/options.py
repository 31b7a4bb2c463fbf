"""Options of swap: the replacement, the layers, and the order of trials."""

from dataclasses import dataclass

from normscope.data.batching import require_seed
from normscope.errors import UsageError

BATCHNORM, FITTED, BATCH, FROZEN, IDENTITY = (
    "batchnorm", "batchnorm-fitted", "batchnorm-batch", "frozen", "identity",
)  # fmt: skip
REPLACEMENTS = (BATCHNORM, FITTED, BATCH, FROZEN, IDENTITY)
# Those that are one linear map for all tokens: a Linear after them can do their work.
FIXED = (BATCHNORM, FITTED, FROZEN, IDENTITY)


@dataclass(frozen=True)
class Swapping:
    """What is put in the layers' place, and what beside one layer at a time and all together is tried.

    `kind` is one of REPLACEMENTS. `cumulative` replaces the layers one after the other, the most
    tolerant first, and keeps them replaced. `recalibrate` takes the statistics of a layer with those
    that were replaced before it in place. `seed` decides the masked tokens and the intervals. `fold`
    folds what can be into the Linears that read it. UsageError for a value that cannot be.
    """

    kind: str = BATCHNORM
    cumulative: bool = False
    recalibrate: bool = False
    seed: int = 0
    fold: bool = False

    def __post_init__(self) -> None:
        require_kind(self.kind)
        require_seed(self.seed)
        if self.recalibrate and self.kind in (BATCH, IDENTITY):
            raise UsageError(
                f"{self.kind} has no statistics to take again; expected another kind with recalibrate; "
                "drop one of them"
            )
        if self.fold:
            require_fixed(self.kind)


def require_kind(kind: str) -> None:
    """Raise UsageError unless it is one of REPLACEMENTS."""
    if kind not in REPLACEMENTS:
        raise UsageError(f"kind is {kind!r}; expected one of {', '.join(REPLACEMENTS)}; choose one")


def require_fixed(kind: str) -> None:
    """Raise UsageError unless it is one of FIXED."""
    require_kind(kind)
    if kind not in FIXED:
        raise UsageError(
            f"{kind} has no fixed scale and shift to fold; expected one of {', '.join(FIXED)}; choose one"
        )
