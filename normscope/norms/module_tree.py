"""Module trees: names and submodules behind torch.compile, data parallelism and device maps."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from normscope.errors import UsageError

# The names that wrappers give to the module inside them.
_INNER_NAMES = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def is_spread(model: nn.Module) -> bool:
    """Whether the library accelerate has put its hooks on modules, to move weights between devices."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside its compiled or data-parallel wrappers, or the model itself without any.

    Raises UsageError if the modules cannot be hooked: a scripted or traced model, or nn.DataParallel on
    several devices, which runs temporary copies.
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise UsageError(
            f"the model runs as copies on {len(model.device_ids)} devices; expected one; "
            "watch and run its own model.module"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "the model is a ScriptModule, whose layers take no hooks; expected a plain module; "
            "pass the one it was made of"
        )
    inner = model.module if isinstance(model, _PARALLEL) else model._modules.get("_orig_mod")
    return model if inner is None else unwrapped(inner)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once, with the name that it would have without wrappers."""
    names, modules = {"": ""}, {"": model}
    for path, module in model.named_modules():
        parent, _, last = path.rpartition(".")
        hidden = last in _INNER_NAMES or (last == "module" and isinstance(modules[parent], _PARALLEL))
        names[path] = names[parent] if hidden or not path else f"{names[parent]}.{last}".lstrip(".")
        modules[path] = module
        yield names[path], module


def uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which compiled models run their original Python code, which calls hooks."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()  # Nothing has been compiled.
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
