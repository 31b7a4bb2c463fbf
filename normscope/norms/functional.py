"""Finds normalization without a module, which hooks cannot see: functional calls and inline code.

While the model runs, a mode intercepts every tensor function. PyTorch's own norms are recognised by name,
and norms that are written out in code by their degree of homogeneity: see `normscope.norms.homogeneity`.
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

from normscope.norms.homogeneity import Degrees

_NAMED = frozenset({
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "normalize", "rms_norm",
})  # fmt: skip
_WRITTEN_OUT = "a norm written out"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"  # The separator excludes torchvision.


@dataclass(frozen=True)
class Place:
    """A line of code that normalises."""

    what: str
    file: str
    line: int
    function: str


class FunctionalNorms(TorchFunctionMode):
    """A mode that records where the code of `model` normalises outside of `norms`, its norm modules.

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
        self._degrees = Degrees()
        self._paused = False

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._degrees = Degrees()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, and record the line that called it if it completes a norm."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._paused:
            return result
        name = getattr(func, "__name__", "").strip("_")
        written_out = self._degrees.follow(name, args, kwargs, result)
        if name in _NAMED:
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and not self._degrees.is_weight(x):
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
        for outer in _outward(frame):
            frames.append(outer)
            owner = _owner(outer)
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
    return f"{first}{more}: {place.what} at {where} is not a module, so it is not measured"
