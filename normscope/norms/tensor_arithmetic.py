"""Checks by bytecode that a module's code is only tensor arithmetic, so a trial run is safe."""

import builtins
import dis
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# The modules of these packages only compute.
_TRUSTED_PACKAGES = frozenset(
    ("diffusers", "open_clip", "sentence_transformers", "timm", "torch", "torchvision", "transformers")
)
# Python modules whose attributes the code may read.
_NAMESPACES = frozenset({
    "math", "torch", "torch.fft", "torch.functional", "torch.linalg", "torch.nn", "torch.nn.functional",
    "torch.special",
})  # fmt: skip
# Where functions that only compute are defined, in C and in Python.
_IN_C = frozenset(("math", "torch", *(f"torch._C._{part}" for part in ("fft", "linalg", "nn", "special"))))
_IN_PYTHON = frozenset(("torch.functional", "torch.nn.functional"))
# C functions whose names begin so change state, or read files.
_SETTERS = ("_", "from_file", "set_")
_CONTEXTS = (torch.no_grad, torch.autocast, torch.finfo)
_PLAIN = (Tensor, int, float, str, bool, type(None), torch.dtype, torch.device, torch.Size, torch.layout)
_BUILTINS = frozenset({
    "AssertionError", "NotImplementedError", "TypeError", "ValueError", "abs", "bool", "float", "int",
    "isinstance", "len", "list", "max", "min", "range", "round", "slice", "str", "sum", "tuple",
})  # fmt: skip
# Methods of a module, a list or a number that change nothing else.
_METHODS = frozenset(("append", "named_parameters", "parameters", "training"))
# Tensor methods with effects beyond the process's memory, or that may never return.
_REACHING = frozenset(("apply_", "backward", "map_", "map2_", "numpy", "register_hook", "share_memory_"))
# Methods that run when a module is copied or called; a class that defines one is not tried.
_COPY_OR_CALL = frozenset({
    "__call__", "__copy__", "__deepcopy__", "__getattr__", "__getattribute__", "__getstate__", "__reduce__",
    "__reduce_ex__", "__setattr__", "__setstate__", "_apply", "buffers", "extra_repr", "modules",
    "parameters", "to_empty", "train",
})  # fmt: skip
_CONTAINERS = (list, dict, set)
_READS = ("LOAD_ATTR", "LOAD_METHOD")
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF")
_FORBIDDEN = (
    *("DELETE_GLOBAL", "IMPORT_NAME", "STORE_DEREF", "STORE_GLOBAL", "STORE_NAME", "STORE_SUBSCR"),
    "YIELD_VALUE",
)


def may_be_tried(module: nn.Module) -> bool:
    """Whether a copy of a leaf module may run: its package is trusted, or its code only computes.

    Loops, imports, stores into containers and calls of functions that are not PyTorch's are not allowed,
    nor is a class with its own way to be copied or called. Helpers that the module calls are checked too.
    """
    if type(module).__module__.split(".")[0] in _TRUSTED_PACKAGES:
        return True
    classes = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")]
    if "forward" in vars(module) or any(not _COPY_OR_CALL.isdisjoint(vars(kind)) for kind in classes[:-1]):
        return False
    return _Reading(module).is_arithmetic(type(module).forward)


class _Reading:
    """Checks the functions of one module; each function is read once."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._read: set[CodeType] = set()

    def is_arithmetic(self, function: Any) -> bool:
        """Whether a function, and every function that it calls, is tensor arithmetic."""
        if not isinstance(function, FunctionType):
            return False
        if function.__code__ in self._read:
            return True
        self._read.add(function.__code__)
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        return all(map(self._is_allowed, defaults)) and all(
            self._allows(code, function) for code in _codes(function.__code__)
        )

    def _allows(self, code: CodeType, function: FunctionType) -> bool:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        last: Any = None
        for step in dis.get_instructions(code):
            backward = "JUMP" in step.opname and isinstance(step.argval, int) and step.argval <= step.offset
            if step.opname in _FORBIDDEN or backward:
                return False
            if step.opname in _GLOBALS:
                last = _value(step.argval, function, cells)
                if isinstance(last, _CONTAINERS) or not self._is_allowed(last):
                    return False
            elif step.opname in _READS and isinstance(last, ModuleType):
                last = getattr(last, step.argval, None)
                if not self._is_allowed(last):
                    return False
            elif step.opname in _READS:
                last = None
                if not self._may_be_read(step.argval):
                    return False
            elif step.opname not in ("CACHE", "EXTENDED_ARG", "PUSH_NULL", "NOP"):
                last = None
        return True

    def _may_be_read(self, name: str) -> bool:
        """Whether an attribute of a tensor, or of the module, is a value or arithmetic."""
        value = getattr(self._module, name, None)
        if name.startswith("__") or (isinstance(value, _CONTAINERS) and name not in vars(self._module)):
            return False  # A list of the class, for example, is not copied with the module.
        if hasattr(nn.Module, name) or value is None:
            computes = hasattr(Tensor, name) or hasattr(torch.finfo, name) or hasattr(int, name)
            return name in _METHODS or name in vars(self._module) or (computes and name not in _REACHING)
        if isinstance(value, MethodType):
            return value.__self__ is self._module and self.is_arithmetic(value.__func__)
        return self._is_allowed(value)

    def _is_allowed(self, value: Any) -> bool:
        if isinstance(value, ModuleType):
            return value.__name__ in _NAMESPACES
        if isinstance(value, _PLAIN) or any(value is kind for kind in (*_CONTEXTS, *_PLAIN)):
            return True
        if isinstance(value, (*_CONTAINERS, tuple, frozenset)):
            return all(map(self._is_allowed, value.values() if isinstance(value, dict) else value))
        name, home = getattr(value, "__name__", ""), getattr(value, "__module__", None)
        if home == "builtins":
            return name in _BUILTINS
        if isinstance(value, BuiltinFunctionType) and home in _IN_C:
            return not name.startswith(_SETTERS)
        return home in _IN_PYTHON or self.is_arithmetic(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code, and the code of the functions defined in it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def _value(name: str, function: FunctionType, cells: Any) -> Any:
    """Return the value of a name that is not local; an unknown name gives an object that is not allowed."""
    if name in cells:
        try:
            return cells[name].cell_contents
        except ValueError:
            return object()
    if name in function.__globals__:
        return function.__globals__[name]
    return getattr(builtins, name, object())
