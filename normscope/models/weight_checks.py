"""Checks the sizes in a configuration against the weights before the model takes memory."""

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

# No model has this many layers, and to build them would take hours.
MAX_LAYERS = 10_000
# The maximum number of weights per byte of a checkpoint: half a bit for each weight.
_WEIGHTS_PER_BYTE = 16
# A model with fewer weights fits into any memory and needs no check.
_MANY_WEIGHTS = 1 << 28


def require_buildable(source: Source, config: "PreTrainedConfig") -> None:
    """Raise ModelError if a configuration asks for more layers than any model has."""
    for name, value in _numbers(config.to_dict()):
        if name.endswith(("layer", "layers")) and value > MAX_LAYERS:
            got = f"config.json of {quoted(source.name)} says that {printable(name)} is {str(value)[:20]}"
            raise ModelError(f"{got}; expected at most {MAX_LAYERS}; check that it is the model's own")


def require_fit(source: Source, config: "PreTrainedConfig", build: "Callable[[], PreTrainedModel]") -> None:
    """Raise ModelError if a folder's configuration describes far more weights than its files can hold.

    `build` makes the model without memory for weights. It is called if two numbers of the configuration
    could be the sizes of such a large matrix.
    """
    files = source.weight_files()
    stored = sum(path.stat().st_size for path in files if path.is_file())
    maximum = max(_WEIGHTS_PER_BYTE * stored, _MANY_WEIGHTS)
    largest = sorted(value for _, value in _numbers(config.to_dict()))[-2:]
    if not source.is_folder or not files or not largest or largest[0] * largest[-1] <= maximum:
        return
    count = sum(parameter.numel() for parameter in build().parameters())
    if count > maximum:
        got = f"config.json of {quoted(source.name)} describes {count:,} weights"
        raise ModelError(
            f"{got}; its checkpoint of {stored:,} bytes cannot hold them; check that they belong together"
        )


def require_shards(source: Source) -> None:
    """Raise ModelError if the index of a folder names anything but files: a device may have no end."""
    has_index = source.is_folder and source.gguf_file is None
    for index in sorted(Path(source.location).glob("*.index.json")) if has_index else ():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # The load explains it.
        for name in sorted(map(str, names)):
            if not Path(source.location, name).is_file():
                got = (
                    f"{quoted(index.name)} of {quoted(source.name)} names {quoted(name)}, which is not a file"
                )
                raise ModelError(f"{got}; expected the weights next to it; download or save both again")


def left_out_note(model: "PreTrainedModel", unexpected: Collection[str]) -> tuple[str, ...]:
    """Return a note on weights whose layer the model does not have, although it has similar layers."""
    described = {_numberless(name) for name, _ in model.named_parameters()}
    names = sorted(name for name in unexpected if _numberless(name) in described)
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
    """Yield every whole number of a configuration with its name."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _numbers(value, str(key))
    elif isinstance(config, int) and not isinstance(config, bool):
        yield name, config
