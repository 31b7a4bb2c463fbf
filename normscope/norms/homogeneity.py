"""Tracks each tensor's degree of homogeneity in the activation.

A tensor has degree k if it is multiplied by c^k when x is multiplied by c. x / sqrt(mean(x^2)) and (x -
mean) / sqrt(var) have degree 0. A product of x and a statistic of x with degree 0 is a norm, however the
code writes it. A softmax, a scale of attention, a rotary embedding and a gate have no such statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

# Functions that return the same numbers in another shape, dtype or memory.
_RESHAPING = frozenset(
    (
        *("bfloat16", "clone", "contiguous", "detach", "double", "expand", "expand_as", "flatten", "float"),
        *("half", "movedim", "permute", "reshape", "reshape_as", "squeeze", "to", "transpose", "type"),
        *("type_as", "unflatten", "unsqueeze", "view", "view_as"),
    )
)
# Functions that keep a statistic away from 0, as an eps does.
_GUARDING = frozenset(("add", "clamp", "clamp_min", "max", "maximum", "nan_to_num", "where"))
_PRODUCTS = {"mul": 1.0, "multiply": 1.0, "div": -1.0, "divide": -1.0, "true_divide": -1.0, "truediv": -1.0}
_POWERS = {"rdiv": -1.0, "reciprocal": -1.0, "rsqrt": -0.5, "rtruediv": -1.0, "sqrt": 0.5, "square": 2.0}
_STATISTICS = {"linalg_norm": 1.0, "linalg_vector_norm": 1.0, "norm": 1.0, "std": 1.0, "var": 2.0}
_EUCLIDEAN = (None, 2, "fro")


@dataclass(frozen=True)
class _Term:
    """A tensor that grows as x ** `degree`, where x is the activation number `origin`.

    It is `reduced` if it is a statistic of x.
    """

    origin: int
    degree: float = 1.0
    reduced: bool = False

    def power(self, exponent: float) -> "_Term":
        """Return the term of this tensor raised to `exponent`."""
        return replace(self, degree=self.degree * exponent)


class Degrees:
    """The terms of the tensors that are alive, and the set of those made of weights alone."""

    def __init__(self) -> None:
        self._terms: Any = WeakIdKeyDictionary()
        self._weights: Any = WeakIdKeyDictionary()
        self._origins = 0

    def is_weight(self, value: Any) -> bool:
        """Whether a tensor is a weight or made of weights alone."""
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
        made_of_weights = bool(tensors) and all(map(self.is_weight, tensors))
        term = self._step(name, args, kwargs) if tensors and not made_of_weights and args else None
        # A function in place returns its argument, whose old entry is wrong now.
        for kept in (self._terms, self._weights):
            kept.pop(result, None)
        if made_of_weights:
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
            known = self._known(first)
            term = replace(known, reduced=True) if known and known.degree == 2 else None
        elif name in _STATISTICS:
            order = kwargs.get("p", kwargs.get("ord", second if name.endswith("norm") else None))
            term = self._statistic(first, _STATISTICS[name]) if order in _EUCLIDEAN else None
        elif name == "sub":
            term = self._less(first, second)
        elif name in _RESHAPING:
            term = self._term(first)
        return term

    def _product(self, first: Any, second: Any, sign: float) -> _Term | None:
        one, two = self._term(first), self._term(second)
        if one is None or two is None:  # Scaled by a number or a weight.
            return one or (two and two.power(sign))
        if one.origin != two.origin:
            return None
        degree = one.degree + sign * two.degree
        # Degree 0 is a norm only if exactly one factor is a statistic and one has degree 1, as x has.
        if degree == 0 and (one.reduced == two.reduced or 1 not in (one.degree, two.degree)):
            return None
        return _Term(one.origin, degree, one.reduced and two.reduced)

    def _power(self, value: Any, exponent: float) -> _Term | None:
        term = self._term(value)
        return term.power(exponent) if term else None

    def _statistic(self, value: Any, degree: float) -> _Term | None:
        term = self._term(value)
        return _Term(term.origin, degree, reduced=True) if term and term.degree == 1 else None

    def _guarded(self, values: Sequence[Any]) -> _Term | None:
        """Return the statistic's term if all other arguments are numbers, weights or have the same term."""
        terms = {self._term(value) for value in values if isinstance(value, Tensor)} - {None}
        return next(iter(terms)) if len(terms) == 1 and all(t and t.reduced for t in terms) else None

    def _less(self, value: Tensor, other: Any) -> _Term | None:
        """Return the term of x for x minus its mean; x minus another activation has no term."""
        term = self._term(value)
        smaller = not isinstance(other, Tensor) or other.numel() < value.numel()
        return term if term and (smaller or term.reduced) else None

    def _known(self, value: Any) -> _Term | None:
        return self._terms.get(value) if isinstance(value, Tensor) else None

    def _term(self, value: Any) -> _Term | None:
        """Return the tensor's term; without one it is a new activation. None for numbers and weights."""
        if not isinstance(value, Tensor) or self.is_weight(value):
            return None
        term = self._known(value)
        if term is None and value.dim() and value.is_floating_point():
            self._origins += 1
            term = self._terms[value] = _Term(self._origins)
        return term
