"""Checks the sizes in a configuration against the weights before memory is taken for them."""

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError
from normscope.escaping import printable, quoted
from normscope.models.location import Source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# No model has as many, and to build them would take hours.
MAX_LAYERS = 10_000
# A checkpoint of this many weights a byte would have half a bit for each.
_WEIGHTS_PER_BYTE = 16
# What fits everywhere needs no look at the checkpoint.
_MANY_WEIGHTS = 1 << 28


def require_buildable(source: Source, config: "PreTrainedConfig") -> None:
    """Raise ModelError where a configuration asks for more layers than a model can have."""
    for name, value in _numbers(config.to_dict()):
        if name.endswith(("layer", "layers")) and value > MAX_LAYERS:
            got = f"config.json of {quoted(source.name)} says that {printable(name)} is {str(value)[:20]}"
            raise ModelError(f"{got}; expected {MAX_LAYERS} at the most; check that it is the model's own")


def require_fit(source: Source, config: "PreTrainedConfig", build: "Callable[[], PreTrainedModel]") -> None:
    """Raise ModelError where a folder's configuration describes far more weights than its files can hold.

    `build` makes the model without memory for weights; it is called where two of the configuration's
    numbers make so large a matrix.
    """
    files = [path for path in Path(source.location).glob("*") if path.suffix in (".safetensors", ".bin")]
    stored = sum(path.stat().st_size for path in files if path.is_file())
    most = max(_WEIGHTS_PER_BYTE * stored, _MANY_WEIGHTS)
    largest = sorted(value for _, value in _numbers(config.to_dict()))[-2:]
    if not source.is_folder or not files or not largest or largest[0] * largest[-1] <= most:
        return
    count = sum(parameter.numel() for parameter in build().parameters())
    if count > most:
        got = f"config.json of {quoted(source.name)} describes {count:,} weights"
        raise ModelError(
            f"{got}; its checkpoint of {stored:,} bytes cannot hold them; check that they belong together"
        )


def require_shards(source: Source) -> None:
    """Raise ModelError where a folder's index names what is no file: a device may have no end."""
    for index in sorted(Path(source.location).glob("*.index.json")) if source.is_folder else ():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # told where it is read
        for name in sorted(map(str, names)):
            if not Path(source.location, name).is_file():
                got = f"{quoted(index.name)} of {quoted(source.name)} names {quoted(name)}, which is no file"
                raise ModelError(f"{got}; expected the weights beside it; download or save both again")


def left_out_note(model: "PreTrainedModel", unexpected: Collection[str]) -> tuple[str, ...]:
    """Say which weights of the checkpoint the model has no layer for, though it has such layers."""
    known = {_numberless(name) for name, _ in model.named_parameters()}
    names = sorted(name for name in unexpected if _numberless(name) in known)
    if not names:
        return ()
    weights, have = ("1 weight", "has") if len(names) == 1 else (f"{len(names)} weights", "have")
    return (
        f"{weights} of the checkpoint {have} no layer in the model that config.json describes: "
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
    )


def _numberless(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Give every whole number of a configuration, with the name it has."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _numbers(value, str(key))
    elif isinstance(config, int) and not isinstance(config, bool):
        yield name, config
