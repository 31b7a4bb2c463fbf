"""Finds normalization without a module, which hooks cannot see: functional calls and inline code.

While the model runs, a mode intercepts every tensor function. PyTorch's own norms are recognised by name.
A norm that is written out in code is recognised by its last step: an activation is divided by a statistic
that grows as the activation does, such as a root of a mean square. A softmax, a scale of attention, a rotary
embedding and a gate have no such statistic.
"""

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_NAMED = frozenset(
    (
        *("batch_norm", "group_norm", "instance_norm", "layer_norm"),
        *("local_response_norm", "normalize", "rms_norm"),
    )
)
_WRITTEN_OUT = "a norm written out"
# Functions that return the same numbers in another form, or keep a statistic away from 0, as an eps does.
_SAME = frozenset(
    (
        *("add", "clamp", "clamp_min", "clone", "contiguous", "detach", "double", "expand", "expand_as"),
        *("flatten", "float", "max", "maximum", "permute", "reshape", "squeeze", "to", "transpose"),
        *("type_as", "unsqueeze", "view"),
    )
)
_PRODUCTS = {"mul": 1.0, "multiply": 1.0, "div": -1.0, "divide": -1.0, "true_divide": -1.0, "truediv": -1.0}
_POWERS = {"rdiv": -1.0, "reciprocal": -1.0, "rsqrt": -0.5, "rtruediv": -1.0, "sqrt": 0.5, "square": 2.0}
_STATISTICS = {"linalg_norm": 1.0, "linalg_vector_norm": 1.0, "norm": 1.0, "std": 1.0, "var": 2.0}
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"  # The separator excludes torchvision.


@dataclass(frozen=True)
class Place:
    """A line of code that normalises."""

    what: str
    file: str
    line: int
    function: str


class _Statistics:
    """Follows the tensors that are alive: the weights, the squares of activations, and the statistics.

    A statistic has a degree k: it is multiplied by c^k when the activation x is multiplied by c.
    """

    def __init__(self) -> None:
        self._weights: Any = WeakIdKeyDictionary()
        self._squares: Any = WeakIdKeyDictionary()
        self._degrees: Any = WeakIdKeyDictionary()

    def is_weight(self, value: Any) -> bool:
        """Whether a tensor is a weight or made of weights alone."""
        return isinstance(value, nn.Parameter) or value in self._weights

    def follow(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
        """Record one call of a tensor function; return whether its result is a norm.

        `name` is the function's name without its outer underscores.
        """
        if isinstance(result, tuple) and name in ("std_mean", "var_mean"):
            name, result = name.removesuffix("_mean"), result[0]
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not isinstance(result, Tensor) or not tensors:
            return False
        inputs = [value for value in tensors if not self.is_weight(value)]
        power = _POWERS.get(name, args[1] if name == "pow" and len(args) > 1 else None)
        power = power if isinstance(power, int | float) else None
        degree = self._degree(name, inputs, power) if inputs else None
        by_itself = name == "mul" and len(inputs) == 2 and inputs[0] is inputs[1]
        # A function in place returns its argument, whose old entry is wrong now.
        for entries in (self._weights, self._squares, self._degrees):
            entries.pop(result, None)
        if not inputs:
            self._weights[result] = True
        elif degree:
            self._degrees[result] = degree
        elif power == 2 or by_itself:
            self._squares[result] = True
        return degree == 0

    def _degree(self, name: str, inputs: Sequence[Tensor], power: float | None) -> float | None:
        """Return the degree of a statistic, 0 for a normalised activation, None for any other result."""
        degrees: list[float | None] = [self._degrees.get(value) for value in inputs]
        first, *others = degrees
        if name in _STATISTICS:
            return _STATISTICS[name]
        if name in ("mean", "sum") and inputs[0] in self._squares:
            return 2.0
        if power is not None:
            return first and first * power
        if name in _PRODUCTS and others:
            # An activation has degree 1; only one of the factors may be a statistic.
            total = (first or 1.0) + _PRODUCTS[name] * (others[0] or 1.0)
            return 0.0 if total == 0 and degrees.count(None) == 1 else None
        alone = len(set(degrees)) == 1 or name.endswith("_as")
        return first if alone and (name in _SAME or name in _PRODUCTS) else None


class FunctionalNorms(TorchFunctionMode):
    """A mode that records where `model`, running in it, normalises outside of `norms`, its norm modules.

    `names` are the names of all its modules. The mode holds no strong reference to the model. Normalised
    weights are not recorded: they are a parametrization of a layer.
    """

    def __init__(
        self, model: nn.Module, norms: Iterable[nn.Module], names: Iterable[tuple[str, nn.Module]]
    ) -> None:
        super().__init__()
        self._model = weakref.ref(model)
        self._names = {id(module): name for name, module in names}
        self._norms = {id(norm) for norm in norms}
        self._places: dict[Place, dict[int, str]] = {}
        self._statistics = _Statistics()
        self._paused = False

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._statistics = _Statistics()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and record the line that called it if it completes a norm."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._paused:
            return result
        name = getattr(func, "__name__", "").strip("_")
        written_out = self._statistics.follow(name, args, kwargs, result)
        if name in _NAMED:
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and not self._statistics.is_weight(given):
                self._note(f"functional {name}", sys._getframe(1))
        elif written_out:
            self._note(_WRITTEN_OUT, sys._getframe(1))
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing within this context: the code that runs in it is not the model's."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def notes(self) -> list[str]:
        """Return one sentence per line of code that normalises."""
        return [_sentence(place, [*modules.values()]) for place, modules in self._places.items()]

    def _note(self, what: str, frame: FrameType) -> None:
        model, frames, owners = self._model(), [], []
        for each in _outward(frame):
            frames.append(each)
            owner = _owner(each)
            owners += [] if owner is None else [owner]
            if owner is model:
                break  # Outer frames are the caller's; reading their variables would keep these alive.
        if not any(id(owner) in self._norms for owner in owners):
            here = next((f for f in frames if not f.f_code.co_filename.startswith(_TORCH)), frame)
            module = owners[0] if owners else model
            name = self._names.get(id(module)) or type(module).__name__
            self._places.setdefault(_place(what, here), {})[id(module)] = name


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _owner(frame: FrameType) -> nn.Module | None:
    """Return the module whose method runs in this frame."""
    names = frame.f_code.co_varnames
    value = frame.f_locals.get(names[0]) if names else None
    return value if isinstance(value, nn.Module) else None


def _place(what: str, frame: FrameType) -> Place:
    code, owner = frame.f_code, _owner(frame)
    own = code.co_name if owner is None else f"{type(owner).__name__}.{code.co_name}"
    return Place(what, Path(code.co_filename).name, frame.f_lineno, getattr(code, "co_qualname", own))


def _sentence(place: Place, modules: Sequence[str]) -> str:
    first, *others = modules
    more = f" and {len(others)} more like it" if others else ""
    where = f"{place.file}:{place.line} in {place.function}"
    return f"{first}{more}: {place.what} at {where} is no module, so it is not measured"
