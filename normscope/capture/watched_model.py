"""Checks of a watched model and its options, and its description."""

import torch
from torch import nn

from normscope.errors import UsageError
from normscope.results.common import ModelInfo
from normscope.results.inspect import Report


def require_model(model: object) -> None:
    """Raise UsageError if `model` is not a module; the message sends a model name to `inspect`."""
    if isinstance(model, nn.Module):
        _require_whole(model)
        return
    todo = "give it the model itself"
    if isinstance(model, str):
        todo = f"give it the model itself, or the name to normscope.inspect({model[:80]!r})"
    raise UsageError(f"watch got a {type(model).__name__}; expected a torch.nn.Module; {todo}")


def _require_whole(model: nn.Module) -> None:
    """Raise UsageError if FSDP or DeepSpeed ZeRO-3 has sharded the weights, which hooks then see in part."""
    classes = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    fsdp = not classes.isdisjoint(("FullyShardedDataParallel", "FSDPModule"))
    if fsdp or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        name = "FSDP" if fsdp else "DeepSpeed ZeRO-3"
        raise UsageError(
            f"the model's weights are sharded by {name}; expected whole ones; use DistributedDataParallel, "
            "or ZeRO-2"
        )


def require_number(name: str, value: object, expected: str, minimum: int | None = None) -> None:
    """Raise UsageError if an option is not an integer, or is less than `minimum`."""
    if not isinstance(value, int) or (minimum is not None and value < minimum):
        raise UsageError(f"{name} is {value!r}; expected {expected}; leave it out for the default")


def require_content(report: Report) -> Report:
    """Return the report; UsageError if it has neither a layer nor a warning."""
    if not report.layers and not report.warnings:
        raise UsageError(
            f"{report.model.id} has no normalization layer to measure; expected at least one; "
            "normscope.register names classes that are not found"
        )
    return report


def describe(model: nn.Module, name: str) -> ModelInfo:
    """Return the description of a model that the object alone gives."""
    parameters = list(model.parameters())
    first = parameters[0] if parameters else torch.zeros(())
    # Several devices, and offloaded weights, occur only in a model that is spread over devices.
    devices = dict.fromkeys("offloaded" if p.is_meta else str(p.device) for p in parameters)
    return ModelInfo(
        id=name,
        revision=None,
        commit=None,
        architecture=type(model).__name__,
        dtype=str(first.dtype).removeprefix("torch."),
        device=" and ".join(devices) or str(first.device),
        parameters=sum(p.numel() for p in parameters),
    )
