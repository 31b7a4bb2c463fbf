"""Tracks each tensor's degree of homogeneity in the activation.

A tensor has degree k if scaling x by c scales it by c^k: x / sqrt(mean(x^2)) and (x - mean) / sqrt(var)
have degree 0. The product of x and a statistic of x is a norm if its degree is 0, whichever way the code
writes it. Softmax, attention scaling, rotary embeddings and gates use no such statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

# Functions that return the same numbers in another shape, dtype or memory.
_RESHAPING = frozenset({
    "bfloat16", "clone", "contiguous", "detach", "double", "expand", "expand_as", "flatten", "float", "half",
    "movedim", "permute", "reshape", "reshape_as", "squeeze", "to", "transpose", "type", "type_as",
    "unflatten", "unsqueeze", "view", "view_as",
})  # fmt: skip
# Functions that keep a statistic away from 0, as an eps does.
_GUARDING = frozenset(("add", "clamp", "clamp_min", "max", "maximum", "nan_to_num", "where"))
_PRODUCTS = {"mul": 1.0, "multiply": 1.0, "div": -1.0, "divide": -1.0, "true_divide": -1.0, "truediv": -1.0}
_POWERS = {"rdiv": -1.0, "reciprocal": -1.0, "rsqrt": -0.5, "rtruediv": -1.0, "sqrt": 0.5, "square": 2.0}
_STATISTICS = {"linalg_norm": 1.0, "linalg_vector_norm": 1.0, "norm": 1.0, "std": 1.0, "var": 2.0}
_EUCLIDEAN = (None, 2, "fro")


@dataclass(frozen=True)
class _Term:
    """The degree of a tensor in the activation x that has the number `origin`.

    `reduced` says that the tensor is a statistic of x.
    """

    origin: int
    degree: float = 1.0
    reduced: bool = False

    def power(self, exponent: float) -> "_Term":
        """Return the term of this tensor raised to `exponent`."""
        return replace(self, degree=self.degree * exponent)


class Degrees:
    """The terms of all live tensors, and the set of tensors that were computed from weights only."""

    def __init__(self) -> None:
        self._terms: Any = WeakIdKeyDictionary()
        self._weights: Any = WeakIdKeyDictionary()
        self._origins = 0

    def is_weight(self, value: Any) -> bool:
        """Whether a tensor is a weight or was computed from weights only."""
        return isinstance(value, nn.Parameter) or value in self._weights

    def follow(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
        """Record one call of a tensor function; return whether its result is a norm.

        `name` is the function's name without its outer underscores.
        """
        if isinstance(result, tuple) and name in ("std_mean", "var_mean"):
            name, result = name.removesuffix("_mean"), result[0]
        if not isinstance(result, Tensor):
            return False
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        from_weights = bool(tensors) and all(map(self.is_weight, tensors))
        term = self._step(name, args, kwargs) if tensors and not from_weights and args else None
        # An in-place function returns its argument, whose old entry is now wrong.
        for entries in (self._terms, self._weights):
            entries.pop(result, None)
        if from_weights:
            self._weights[result] = True
        elif term is not None and term.degree != 0:
            self._terms[result] = term
        return term is not None and term.degree == 0

    def _step(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Term | None:
        first, second = args[0], args[1] if len(args) > 1 else None
        term = None
        if name in _PRODUCTS:
            term = self._product(first, second, _PRODUCTS[name])
        elif name in _GUARDING:
            term = self._guarded(args)
        elif name == "pow" and isinstance(second, int | float):
            term = self._power(first, second)
        elif name in _POWERS:
            term = self._power(first, _POWERS[name])
        elif name in ("mean", "sum"):
            square = self._recorded(first)
            term = replace(square, reduced=True) if square and square.degree == 2 else None
        elif name in _STATISTICS:
            order = kwargs.get("p", kwargs.get("ord", second if name.endswith("norm") else None))
            term = self._statistic(first, _STATISTICS[name]) if order in _EUCLIDEAN else None
        elif name == "sub":
            term = self._difference(first, second)
        elif name in _RESHAPING:
            term = self._term(first)
        return term

    def _product(self, first: Any, second: Any, sign: float) -> _Term | None:
        left, right = self._term(first), self._term(second)
        if left is None or right is None:  # Scaled by a number or a weight.
            return left or (right and right.power(sign))
        if left.origin != right.origin:
            return None
        degree = left.degree + sign * right.degree
        # Degree 0 is a norm only if exactly one factor is a statistic, and one has degree 1 like x itself.
        if degree == 0 and (left.reduced == right.reduced or 1 not in (left.degree, right.degree)):
            return None
        return _Term(left.origin, degree, left.reduced and right.reduced)

    def _power(self, value: Any, exponent: float) -> _Term | None:
        term = self._term(value)
        return term.power(exponent) if term else None

    def _statistic(self, value: Any, degree: float) -> _Term | None:
        term = self._term(value)
        return _Term(term.origin, degree, reduced=True) if term and term.degree == 1 else None

    def _guarded(self, values: Sequence[Any]) -> _Term | None:
        """Return a statistic's term if the other arguments are numbers, weights or tensors of that term."""
        terms = {self._term(value) for value in values if isinstance(value, Tensor)} - {None}
        return next(iter(terms)) if len(terms) == 1 and all(t and t.reduced for t in terms) else None

    def _difference(self, value: Tensor, other: Any) -> _Term | None:
        """Return x's term for x minus its mean; x minus another activation has no term."""
        term = self._term(value)
        smaller = not isinstance(other, Tensor) or other.numel() < value.numel()
        return term if term and (smaller or term.reduced) else None

    def _recorded(self, value: Any) -> _Term | None:
        return self._terms.get(value) if isinstance(value, Tensor) else None

    def _term(self, value: Any) -> _Term | None:
        """Return the tensor's term, None for numbers and weights; an unknown tensor starts an activation."""
        if not isinstance(value, Tensor) or self.is_weight(value):
            return None
        term = self._recorded(value)
        if term is None and value.dim() and value.is_floating_point():
            self._origins += 1
            term = self._terms[value] = _Term(self._origins)
        return term
