"""Checks of a watched model and its options, and its description."""

import torch
from torch import nn

from normscope.errors import UsageError
from normscope.results.common import ModelInfo
from normscope.results.inspect import Report


def require_model(model: object) -> None:
    """Raise UsageError for what is no module; a name is for `inspect`."""
    if isinstance(model, nn.Module):
        return
    todo = "give it the model itself"
    if isinstance(model, str):
        todo = f"give it the model itself, or the name to normscope.inspect({model[:80]!r})"
    raise UsageError(f"watch got a {type(model).__name__}; expected a torch.nn.Module; {todo}")


def require_number(name: str, value: object, expected: str, least: int | None = None) -> None:
    """Raise UsageError where an option is no whole number, or less than `least`."""
    if not isinstance(value, int) or (least is not None and value < least):
        raise UsageError(f"{name} is {value!r}; expected {expected}; leave it out for the default")


def told(report: Report) -> Report:
    """Return a report that tells something; UsageError for one without a layer and without a word."""
    if not report.layers and not report.warnings:
        raise UsageError(
            f"{report.model.id} has no normalization layer to measure; expected at least one; "
            "normscope.register names classes that are not found"
        )
    return report


def describe(model: nn.Module, name: str) -> ModelInfo:
    """Return what is known of a model from the object alone."""
    parameters = list(model.parameters())
    first = parameters[0] if parameters else torch.zeros(())
    # Only a model that is spread over devices has several, and weights that come and go.
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
