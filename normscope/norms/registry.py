"""Registry of norm classes named by the user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from normscope.errors import UsageError

KINDS = ("layernorm", "rmsnorm", "l2norm", "batchnorm", "groupnorm", "instancenorm", "other")

Normalise = Callable[[nn.Module, Tensor], Tensor]
Class = TypeVar("Class", bound=type[nn.Module])


@dataclass(frozen=True)
class _Registered:
    """What a user registered for a class: its kind, and its `normalise` function or None."""

    kind: str
    normalise: Normalise | None


_CLASSES: dict[type[nn.Module], _Registered] = {}


def register(module_class: Class, normalise: Normalise | None = None, *, kind: str = "other") -> Class:
    """Treat every module of this class, or of a subclass, as a normalization layer.

        normscope.register(MyNorm)
        normscope.register(MyNorm, lambda module, x: x / x.abs().mean(-1, keepdim=True))

    Without `normalise` the known formulas are tried on the module's real input and output, as for
    any norm. `normalise(module, x)` turns rows x (V, D), at least float32, into y (V, D) before the
    affine y * weight + bias (or y * (1 + weight) + bias) of the parameters with those names; the
    report's `own_error` says how well it fits. `kind` is what reports call such layers, one of
    layernorm, rmsnorm, l2norm, batchnorm, groupnorm, instancenorm, other. Returns the class, so that
    it also serves as a decorator. Raises UsageError if it is not a module class, or the kind is unknown.
    """
    if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
        raise UsageError(
            f"{module_class!r} is not a class of modules; expected a subclass of torch.nn.Module"
        )
    if kind not in KINDS:
        raise UsageError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    _CLASSES[module_class] = _Registered(kind, normalise)
    return module_class


def registered(module: nn.Module) -> _Registered | None:
    """Return the registration of the module's class or of its nearest base class, None if there is none."""
    return next((_CLASSES[base] for base in type(module).__mro__ if base in _CLASSES), None)
