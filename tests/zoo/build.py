"""A tiny random model of a type of transformers, and inputs that it runs on."""

import importlib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel

from tests.zoo.inputs import candidates
from tests.zoo.shrink import shrink

# A parameter beyond this was never filled.
HUGE = 1e4


@dataclass
class Specimen:
    """A model type: its tiny model and inputs that it ran on, or why there are none."""

    type: str
    model: Any = None
    inputs: dict[str, Any] | None = None
    error: str | None = None

    @property
    def built(self) -> bool:
        """Whether there is a model."""
        return self.model is not None

    @property
    def ran(self) -> bool:
        """Whether a forward pass ended well."""
        return self.inputs is not None


def types() -> list[str]:
    """Return every model type of the installed transformers."""
    return sorted(CONFIG_MAPPING.keys())


def build(kind: str) -> Specimen:
    """Build the type's model, of the first of its classes that runs, and inputs for it."""
    specimen = Specimen(kind)
    for wide, own in ((False, True), (True, True), (True, False)):
        try:
            config = shrink(CONFIG_MAPPING[kind], wide=wide, own=own)
        except Exception as error:
            specimen.error = specimen.error or f"config: {_line(error)}"
            continue
        if _try_classes(specimen, config):
            break
    return specimen


def _try_classes(specimen: Specimen, config: Any) -> bool:
    """Build the first class of this configuration that runs; the first that is built stays otherwise."""
    for cls in _classes(config):
        try:
            torch.manual_seed(0)
            model = spread(cls(config)).eval()
        except Exception as error:
            specimen.error = specimen.error or f"{cls.__name__}: {_line(error)}"
            continue
        inputs, problem = _run(model)
        if specimen.model is None or inputs is not None:
            specimen.model, specimen.inputs, specimen.error = model, inputs, problem
        if inputs is not None:
            return True
    return False


def _classes(config: Any) -> Iterator[type[PreTrainedModel]]:
    """Give the model classes of a configuration, the plain one first, at most five."""
    first = []
    try:
        found = MODEL_MAPPING[type(config)]
        first = list(found) if isinstance(found, list | tuple) else [found]
    except (KeyError, ValueError):  # No such class, or one that is named and not there.
        pass
    others = [v for home in _homes(type(config)) for v in vars(home).values() if _takes(v, type(config))]
    yield from list(dict.fromkeys([*first, *others]))[:5]


def _homes(config: type[Any]) -> Iterator[Any]:
    """Give the modules beside the configuration that define models."""
    package, name = config.__module__.rsplit(".", 1)
    near = name.replace("configuration_", "modeling_")
    folder = Path(importlib.import_module(package).__file__ or "").parent
    for path in sorted(folder.glob("modeling_*.py"), key=lambda path: path.stem != near):
        with suppress(ImportError):  # It wants a package that is not here.
            yield importlib.import_module(f"{package}.{path.stem}")


def _takes(value: Any, config: type[Any]) -> bool:
    if not (isinstance(value, type) and issubclass(value, PreTrainedModel)):
        return False
    return getattr(value, "config_class", None) is config and not value.__name__.endswith("PreTrainedModel")


def spread(model: nn.Module) -> nn.Module:
    """Give norms weights, biases and running statistics that differ, so that a wrong formula shows.

    Matrices that start at zero, or were never filled, become small and random: a layer that only
    sees zeros proves nothing.
    """
    with torch.no_grad():
        for module in model.modules():
            norm = "norm" in type(module).__name__.lower()
            for tensor in module.parameters(recurse=False):
                if not tensor.is_floating_point():
                    continue
                if not bool((tensor.abs() < HUGE).all()):
                    tensor.copy_(torch.randn_like(tensor) * 0.05)
                if norm and tensor.dim() <= 1:
                    tensor.add_(torch.randn_like(tensor) * 0.3)
                elif tensor.dim() > 1 and not bool(tensor.any()):
                    tensor.copy_(torch.randn_like(tensor) / math.sqrt(tensor.shape[-1]))
            for name in ("running_mean", "running_var"):
                held = getattr(module, name, None)
                if isinstance(held, torch.Tensor):
                    held.add_(torch.rand_like(held) * 0.5)
    return model


def _run(model: nn.Module) -> tuple[dict[str, Any] | None, str | None]:
    """Return the first inputs that the model runs on, or what the first of them met."""
    problem = None
    for inputs in candidates(model):
        try:
            with torch.no_grad():
                model(**inputs)
        except Exception as error:
            problem = problem or f"{type(model).__name__}: {_line(error)}"
            continue
        return inputs, None
    return None, problem or f"{type(model).__name__}: no input that it takes"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
