"""Detects the modules of a model that normalise: their kind, eps and affine.

A module is a candidate because of its class, its structure, or its output for random rows. Its formula is
found by trial: the candidate formulas are applied to the module's first real input, and the one that
gives the real output is chosen.
"""

import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normscope.errors import UsageError
from normscope.norms.formulas import Formula, Gate, formulas, module_eps, rarer_formulas, says_rms, vector
from normscope.norms.module_tree import named_modules
from normscope.norms.registry import registered
from normscope.norms.scale_invariance import is_untried, normalises
from normscope.statistics.moments import Labels, Rows

# The torch classes whose features are axis 1, whatever follows.
_CHANNEL_FIRST: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.modules.batchnorm._BatchNorm, "batchnorm"),
    (nn.modules.instancenorm._InstanceNorm, "instancenorm"),
    (nn.GroupNorm, "groupnorm"),
)
# Class names of norms; GRN and CMVN are response and mean-variance normalizations.
_NAMES = re.compile(r"norm|GRN|CMVN", re.IGNORECASE)
# The maximum relative error, rms over rms, of the layer's formula, without rounding errors.
MAX_ERROR = 1e-3
# If the error is below this share of the maximum, no rarer formula is tried.
_CLEAR = 0.01
# The rarer formulas normalise each row on its own, so a few rows are enough to compare them.
_FEW_ROWS = 512


@dataclass
class NormLayer:
    """One normalization layer of a model; `formula` is None before the first call, and if none fits."""

    name: str
    index: int
    module: nn.Module
    kind: str
    features: int
    formula: Formula | None = None
    settled: bool = False
    gate: Gate | None = None
    feature_axis: int = -1
    """Where the features are in the layer's input: the last axis, or 1 as in convolutions."""
    per_head: bool = False
    """Whether each head has an affine of its own, so that outputs are compared before the affine."""

    @property
    def by_row(self) -> bool:
        """False for a BatchNorm in training mode, which normalises by the statistics of the batch."""
        return not (self.kind == "batchnorm" and self.module.training)

    @property
    def pools(self) -> bool:
        """Whether the layer normalises by statistics of several rows of its input."""
        return self.kind in ("groupnorm", "instancenorm") or not self.by_row

    @property
    def eps(self) -> float:
        """The eps that the layer adds to the variance, NaN if it is not known."""
        return self.formula.eps if self.formula else module_eps(self.module)

    @property
    def affine(self) -> str:
        """The layer's affine in words: "none", "weight", "1+weight", "weight+bias", ..."""
        names = [name for name in ("weight", "bias") if vector(self.module, name) is not None]
        if names and names[0] == "weight" and self.formula and self.formula.offset:
            names[0] = "1+weight"
        return "+".join(names) or "none"

    def settle(self, rows: Rows, output: Tensor | None, sample: Labels, factor: Tensor | None = None) -> None:
        """Choose the formula that gives the module's real `output` (V, D) for the rows, if there is one.

        If the layer has a gate, the formula's output is multiplied by `factor` (V, D).
        """
        # An output of zeros fits every formula: choose one for now, and again at the next call.
        self.settled = output is None or bool(output.any())
        error, formula = (math.inf, None) if output is None else self._best(rows, output, sample, factor)
        if formula is not None and output is not None and error <= _max_error(output):
            self.formula = formula
            self.kind = self.kind if _is_channel_first(self.module) else formula.kind
        elif not _is_channel_first(self.module):
            self.kind = "other"

    def axis_is_known(self) -> bool:
        """Whether the class determines the feature axis; other classes may have the features on axis 1."""
        return _is_channel_first(self.module) or type(self.module) in (nn.LayerNorm, nn.RMSNorm)

    def error(self, rows: Rows, output: Tensor, sample: Labels, factor: Tensor | None = None) -> float:
        """Return the relative error, rms over rms, of the best formula against the real output (V, D)."""
        return self._best(rows, output, sample, factor)[0]

    def _best(
        self, rows: Rows, output: Tensor, sample: Labels, factor: Tensor | None
    ) -> tuple[float, Formula | None]:
        features, dtype = rows.x.shape[1], rows.x.dtype
        usual = formulas(self.module, features, dtype, bare=self.per_head)
        best = _smallest(self._errors(usual, rows, output, sample, factor))
        # A wrong formula may come close: one over all features does, if its groups of features are alike.
        if best[0] <= _max_error(output) * _CLEAR or self.per_head:
            return best
        if not _is_channel_first(self.module):
            rows, output = Rows.of(rows.x[:_FEW_ROWS]), output[:_FEW_ROWS]
            factor = None if factor is None else factor[:_FEW_ROWS]
        rarer = rarer_formulas(self.module, features, dtype)
        return _smallest(iter([best, _smallest(self._errors(rarer, rows, output, sample, factor))]))

    def _errors(
        self, choices: Iterable[Formula], rows: Rows, output: Tensor, sample: Labels, factor: Tensor | None
    ) -> Iterator[tuple[float, Formula]]:
        # A root mean square, not a maximum: rounding in bfloat16 grows with an outlier's size.
        scale = float(torch.linalg.vector_norm(output, dtype=torch.float64)) or 1.0
        for formula in choices:
            expected = formula.affine(self.module, formula.normalise(self.module, rows, sample))
            expected = expected if factor is None else expected * factor
            yield float(torch.linalg.vector_norm(expected - output, dtype=torch.float64)) / scale, formula


def _smallest(errors: Iterator[tuple[float, Formula | None]]) -> tuple[float, Formula | None]:
    return min(errors, key=lambda pair: pair[0], default=(math.inf, None))


def _max_error(output: Tensor) -> float:
    """Return the maximum relative error, rms over rms, of a formula, with rounding in the output's dtype."""
    return MAX_ERROR + 2 * torch.finfo(output.dtype).eps


def find(model: nn.Module, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[NormLayer]:
    """List the normalization layers of `model` in registration order, each module once.

    `only` and `exclude` are shell-style globs on the layers' names, case-sensitive. A glob that matches
    nothing raises UsageError. `index` counts all layers, selected or not.
    """
    layers = [
        NormLayer(name, i, m, *_kind(m), feature_axis=1 if _is_channel_first(m) else -1)
        for i, (name, m) in enumerate(_candidates(model))
    ]
    chosen = select([layer.name for layer in layers], only, exclude)
    return [layer for layer in layers if layer.name in chosen]


def untried(model: nn.Module) -> list[str]:
    """Return a note, or none, on modules that could be norms but whose code may do more than compute."""
    names = {
        type(module).__name__: name
        for name, module in named_modules(model)
        if next(module.children(), None) is None and is_untried(module) and not _is_norm(module)
    }
    if not names:
        return []
    classes = ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"classes whose code may do more than compute were not tried as norms: {classes}; "
        "normscope.register names those that are"
    ]


def select(names: Sequence[str], only: Sequence[str], exclude: Sequence[str] = ()) -> set[str]:
    """Return the names that match a glob of `only` (all if it is empty) and none of `exclude`.

    Raises UsageError for globs that are not lists of strings, and for a glob that matches no name.
    """
    if isinstance(only, str) or isinstance(exclude, str):
        raise UsageError("layer globs came as one string; expected a list of globs: put it in a list")
    for globs in (only, exclude):
        if not isinstance(globs, Iterable) or not all(isinstance(glob, str) for glob in globs):
            raise UsageError(f"layer globs are {globs!r}; expected a list of strings, as ['*.ln_1']")
    for glob in (*only, *exclude):
        if not _matches(names, [glob]):
            examples = ", ".join(repr(name) for name in names[:3]) or "none"
            raise UsageError(
                f"no layer matches {glob!r}; the model's layers are {examples}, ...; give a glob on those"
            )
    return (_matches(names, only) if only else set(names)) - _matches(names, exclude)


def _matches(names: Iterable[str], globs: Iterable[str]) -> set[str]:
    return {name for glob in globs for name in names if fnmatch.fnmatchcase(name, glob)}


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in named_modules(model):
        # Weight normalization is a parametrization: its input is a weight, not tokens.
        if _is_norm(module) and "parametrizations" not in name.split("."):
            yield name or type(module).__name__, module


def _is_channel_first(module: nn.Module) -> bool:
    return isinstance(module, tuple(kind for kind, _ in _CHANNEL_FIRST))


def _is_norm(module: nn.Module) -> bool:
    classes = (nn.LayerNorm, nn.RMSNorm, *(kind for kind, _ in _CHANNEL_FIRST))
    if isinstance(module, classes) or registered(module):
        return True
    descendants = [child for child in module.modules() if child is not module]
    if any(_NAMES.search(type(child).__name__) or _holds_matrix(child) for child in descendants):
        return False  # It only contains norms, or does more than normalise.
    if _NAMES.search(type(module).__name__) and not _holds_matrix(module):
        return True
    return not descendants and normalises(module)


def is_around(module: nn.Module, norms: Collection[nn.Module]) -> bool:
    """Whether a module has a norm's class name, contains one of `norms`, and has only vectors as weights."""
    within = list(module.modules())
    return (
        _NAMES.search(type(module).__name__) is not None
        and any(part in norms for part in within[1:])
        and not any(map(_holds_matrix, within))
    )


def _holds_matrix(module: nn.Module) -> bool:
    return any(p.numel() > max(p.shape, default=1) for p in module.parameters(recurse=False))


def _kind(module: nn.Module) -> tuple[str, int]:
    """Return the kind, as far as the class determines it, and the number of features (0: not known yet)."""
    for kind, name in _CHANNEL_FIRST:
        if isinstance(module, kind):
            return name, int(getattr(module, "num_features", getattr(module, "num_channels", 0)))
    shape, weight = getattr(module, "normalized_shape", None), vector(module, "weight")
    features = math.prod(shape) if isinstance(shape, tuple) else 0 if weight is None else weight.numel()
    if isinstance(module, nn.LayerNorm):
        return "layernorm", features
    registration = registered(module)
    if registration is not None and registration.normalise is not None:
        return registration.kind, features
    return ("rmsnorm" if says_rms(module) else "other"), features
