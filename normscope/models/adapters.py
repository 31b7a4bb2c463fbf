"""Loads a PEFT adapter on its base model, without merging it into the weights."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from normscope.errors import ModelError
from normscope.escaping import quoted
from normscope.models.load_errors import as_model_errors
from normscope.models.location import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The children of PEFT's wrappers that hold the trained copies of a module, by the adapter's name.
_COPIES = ("modules_to_save", "ln_tuning_layers")


def tokenizer_source(source: Source) -> Source:
    """Return the folder of the adapter if a tokenizer was saved there, else the source of the model."""
    if source.adapter is None or not Path(source.adapter, "tokenizer_config.json").is_file():
        return source
    return replace(source, name=source.adapter, location=source.adapter, is_folder=True)


def attach(source: Source, network: "PreTrainedModel") -> "PreTrainedModel":
    """Load the adapter of a source into its base model; the modules keep their names.

    Layers of the adapter stand in the place of those that they change. A module that was trained in full
    (`modules_to_save`, LayerNorm tuning) takes the place of the original one. Raises ModelError for an
    adapter that is incomplete, or that adds tokens instead of changing layers.
    """
    folder = str(source.adapter)
    adapter = replace(source, name=folder, location=folder, is_folder=True)
    if not adapter.weight_files():
        got = f"no adapter_model.safetensors in the adapter folder {quoted(folder)}"
        raise ModelError(f"{got}; expected the weights of the adapter; save it again")
    with as_model_errors(adapter, "adapter"), warnings.catch_warnings():
        # Without its weights, an adapter is random, or does nothing.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        import peft

        config = peft.PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            got = f"the adapter {quoted(folder)} is one of learned prompts ({quoted(config.peft_type.value)})"
            then = f"measure its base, {quoted(source.name)}"
            raise ModelError(f"{got}; expected one that changes layers, such as LoRA; {then}")
        adapted = peft.PeftModel.from_pretrained(network, folder, config=config).get_base_model()
        _put_trained_copies(adapted)
    return cast("PreTrainedModel", adapted)


def _put_trained_copies(network: Any) -> None:
    """Replace every wrapper around an original module and its trained copy by the copy."""
    # Inner modules first: the path of one inside a wrapper is gone afterwards.
    for name, module in reversed([*network.named_modules()]):
        for attribute, copies in module.named_children():
            if attribute in _COPIES:
                network.set_submodule(name, copies[module.active_adapters[0]])
