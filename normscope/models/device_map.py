"""Device maps: models that accelerate spreads over several devices."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from torch import nn


# How transformers lets accelerate share a model out; a device by itself takes all of it.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def require_accelerate(device_map: str) -> None:
    """Raise ModelError when the package that a device map needs is not there."""
    if find_spec("accelerate") is None:
        got = f"the device map {quoted(device_map)} needs the package accelerate, which is not installed"
        raise ModelError(f"{got}; expected it; run pip install 'normscope[accelerate]'")


def keep_vectors(model: "nn.Module") -> None:
    """Let modules that hold vectors alone, as norms do, keep them on the device where they run.

    Weights that do not fit on a device come and go with each forward, and hooks come after that.
    """
    for module, hook in _offloaded(model):
        own = dict(module.named_parameters(recurse=False))
        if own and all(parameter.dim() < 2 for parameter in own.values()):
            from accelerate.utils import set_module_tensor_to_device

            for name in own:
                set_module_tensor_to_device(module, name, hook.execution_device, value=hook.weights_map[name])
            hook.offload = False


def _offloaded(model: "nn.Module") -> "Iterator[tuple[nn.Module, Any]]":
    for module in model.modules():
        own = getattr(module, "_hf_hook", None)
        for hook in getattr(own, "hooks", [own]):
            if getattr(hook, "offload", False):
                yield module, hook
