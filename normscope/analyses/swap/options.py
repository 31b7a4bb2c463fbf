"""Options of swap: the kind of replacement, and the trials to run."""

from dataclasses import dataclass

from normscope.data.batching import require_seed
from normscope.errors import UsageError

BATCHNORM, FITTED, BATCH, FROZEN, IDENTITY = (
    "batchnorm", "batchnorm-fitted", "batchnorm-batch", "frozen", "identity",
)  # fmt: skip
# One half of the formula, the scale or the centre, per feature or of the text; the other half is the token's.
SCALE_FEATURE, CENTRE_FEATURE, SCALE_SEQUENCE, CENTRE_SEQUENCE = HALVES = (
    "scale-feature", "centre-feature", "scale-sequence", "centre-sequence",
)  # fmt: skip
RMSNORM = "rmsnorm"
# A squashing function of single elements, without any statistics: Dynamic Tanh, and Derf with erf.
DYT, DERF = SQUASHING = ("dyt", "derf")
REPLACEMENTS = (BATCHNORM, FITTED, BATCH, FROZEN, IDENTITY, RMSNORM, *HALVES, *SQUASHING)
# Whether one scale of FROZEN is for all tokens, or position 0 of each text has its own.
POOLED, APART = FIRSTS = ("pooled", "apart")
# Kinds with statistics of the text, and kinds without statistics of a corpus.
BY_TEXT = (SCALE_SEQUENCE, CENTRE_SEQUENCE)
_UNCALIBRATED = (BATCH, IDENTITY, RMSNORM, *BY_TEXT)
# Kinds that are one linear map for all tokens, so that a Linear after them can do their work.
FIXED = (BATCHNORM, FITTED, FROZEN, IDENTITY)


@dataclass(frozen=True)
class Swapping:
    """The kind of replacement, and the trials in addition to each layer alone and all together.

    `kind` is one of REPLACEMENTS. `cumulative` replaces the layers one after the other, the most
    tolerant first, and keeps them replaced. `recalibrate` measures the statistics of a layer while the
    layers before it are replaced. `seed` decides the masked tokens and the intervals. `fold`
    folds layers into the Linears that read them, where possible. `first` is one of FIRSTS, and "apart"
    only for the kind "frozen". Raises UsageError for an invalid value.
    """

    kind: str = BATCHNORM
    cumulative: bool = False
    recalibrate: bool = False
    seed: int = 0
    fold: bool = False
    first: str = POOLED

    @property
    def reads_again(self) -> bool:
        """Whether the calibration texts run several times."""
        return self.recalibrate or self.kind in SQUASHING

    def __post_init__(self) -> None:
        require_first(self.first, self.kind)
        require_seed(self.seed)
        if self.recalibrate and self.kind in _UNCALIBRATED:
            raise UsageError(
                f"{self.kind} has no statistics to measure again; expected another kind with recalibrate; "
                "drop one of them"
            )
        if self.fold:
            require_fixed(self.kind)
        if self.fold and self.first == APART:
            raise UsageError(
                "two scales cannot be folded, because a Linear has one weight for all positions; expected "
                "first pooled with fold; drop one of them"
            )


def require_kind(kind: str) -> None:
    """Raise UsageError unless a kind is one of REPLACEMENTS."""
    if kind not in REPLACEMENTS:
        raise UsageError(f"kind is {kind!r}; expected one of {', '.join(REPLACEMENTS)}; choose one")


def require_first(first: str, kind: str) -> None:
    """Raise UsageError unless a kind is one of REPLACEMENTS, and `first` one of FIRSTS that it has."""
    require_kind(kind)
    if first not in FIRSTS:
        raise UsageError(f"first is {first!r}; expected one of {', '.join(FIRSTS)}; choose one")
    if first == APART and kind != FROZEN:
        raise UsageError(f"{kind} has no scale for all tokens; expected {FROZEN} with first {APART}; use it")


def require_fixed(kind: str) -> None:
    """Raise UsageError unless a kind is one of FIXED."""
    require_kind(kind)
    if kind not in FIXED:
        raise UsageError(
            f"{kind} has no fixed scale and shift to fold; expected one of {', '.join(FIXED)}; choose one"
        )
