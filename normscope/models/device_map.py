"""Device maps: models that the package accelerate spreads over several devices."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError, install
from normscope.escaping import quoted

if TYPE_CHECKING:
    from torch import nn

# The strategies of transformers for spreading a model; the name of a device puts all of it there.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def require_accelerate(device_map: str) -> None:
    """Raise ModelError if the package that a device map needs is not installed."""
    if find_spec("accelerate") is None:
        got = f"the device map {quoted(device_map)} needs the package accelerate, which is not installed"
        raise ModelError(f"{got}; expected it; {install('accelerate')}")


def keep_vectors(model: "nn.Module") -> None:
    """Keep the weights of modules with vectors only, such as norms, on the device where they run.

    Weights that do not fit on a device are loaded and removed in each forward, before our hooks run.
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
