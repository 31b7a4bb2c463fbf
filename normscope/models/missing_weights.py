"""Checks that a checkpoint holds every weight of the model, and names what is missing."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError
from normscope.escaping import printable, quoted
from normscope.models.location import Source
from normscope.models.weight_checks import left_out_note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# No forward in evaluation mode reads these.
_UNREAD = ("masked_spec_embed", "mask_token", "num_batches_tracked")


def require_weights(source: Source, network: "PreTrainedModel", info: dict[str, Any]) -> tuple[str, ...]:
    """Return warnings about a checkpoint; `info` is transformers' account of loading it.

    Raises ModelError for weights of another shape, and for missing weights that would be random: before a
    normalization layer they change its input, and in a language model's head the predictions. Other
    weights may be missing.
    """
    _check_sizes(source, info["mismatched_keys"])
    missing = {name for name in info["missing_keys"] if not name.endswith(_UNREAD)}
    if missing and missing.issuperset(name for name, _ in network.named_parameters()):
        got = f"no weight of {type(network).__name__} is in the checkpoint of {quoted(source.name)}"
        raise ModelError(f"{got}; expected weights that fit config.json; check that they belong together")
    needed = _needed(network, missing)
    if needed and not source.options.random_weights:
        are = _are(needed, f"not in the checkpoint of {quoted(source.name)}, and would be random")
        raise ModelError(
            f"{are}; expected all that the numbers depend on; check that config.json and the weights "
            "belong together, or pass --random-weights to run it all the same"
        )
    were = "was" if len(missing) == 1 else "were"
    notes = (_are(missing, f"not in the checkpoint and {were} initialised at random"),) if missing else ()
    return (*notes, *left_out_note(network, info["unexpected_keys"]))


def _check_sizes(source: Source, mismatched: Any) -> None:
    for name, stored, configured in sorted(mismatched):
        others = f" ({len(mismatched) - 1} more differ)" if len(mismatched) > 1 else ""
        got = f"weight {name} of {quoted(source.name)} has the shape {list(stored)}{others}"
        raise ModelError(f"{got}; config.json says {list(configured)}; check that they belong together")


def _needed(network: Any, missing: Collection[str]) -> set[str]:
    """Return the weights of modules that come before a norm, or that predict tokens."""
    modules = dict(network.named_modules())
    indices = {name: index for index, name in enumerate(modules)}
    norms = [indices[name] for name, module in modules.items() if "norm" in type(module).__name__.lower()]
    try:
        predicting = network.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # Raised by the own code of some models.
        predicting = None
    needed = set()
    for name in missing:
        owner = name.rpartition(".")[0]
        predicts = predicting is not None and modules.get(owner) is predicting
        if predicts or indices.get(owner, 0) <= max(norms, default=-1):
            needed.add(name)
    return needed


def _are(missing: Collection[str], what: str) -> str:
    # Normalization layers first, because the run measures them.
    names = sorted(missing, key=lambda name: ("norm" not in name.lower(), name))
    are = "1 weight is" if len(names) == 1 else f"{len(names)} weights are"
    return f"{are} {what}: {printable(', '.join(names[:3]))}{', ...' if len(names) > 3 else ''}"
