"""Checks that quantized weights can be read, GGUF files among them."""

from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any

from normscope.errors import ModelError
from normscope.escaping import quoted
from normscope.models.load_errors import as_model_errors
from normscope.models.location import Source

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# The packages that transformers needs for weights quantized by a method, named as they are imported.
_PACKAGES = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "gguf": ("gguf", "accelerate"),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}


def require_gguf(source: Source) -> None:
    """Raise ModelError for a GGUF file if a package to read it is not installed."""
    if source.gguf_file is not None:
        _require_packages(source, "gguf")


def with_head(source: Source, config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Name the language model's class in the configuration of a GGUF file, which most files do not name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if source.gguf_file is not None and not config.architectures and name is not None:
        config.architectures = [name]
    return config


def hidden_bar(source: Source) -> AbstractContextManager[Any]:
    """Hide the progress bar that transformers shows for a GGUF file whatever its settings are."""
    return nullcontext() if source.gguf_file is None else redirect_stderr(StringIO())


def require_known_quantization(source: Source, config: "PreTrainedConfig") -> None:
    """Raise ModelError for quantized weights that transformers would ignore, or lacks a package for."""
    from transformers import quantizers

    methods: Any = quantizers  # It exports more than its annotations say.
    quantization = getattr(config, "quantization_config", None)
    # Code of the repository may have a quantization of its own.
    if not isinstance(quantization, dict) or source.options.trust_remote_code:
        return
    method = quantization.get("quant_method")
    _require_packages(source, str(method))
    with as_model_errors(source, "weights"):
        is_supported = methods.AutoHfQuantizer.supports_quant_method(quantization)
    if not is_supported:
        got = f"the weights of {quoted(source.name)} are quantized by {quoted(method)}"
        raise ModelError(
            f"{got}, which transformers cannot read; expected a quantization that it knows; "
            "update transformers or name the model unquantized"
        )


def _require_packages(source: Source, method: str) -> None:
    if missing := [name for name in _PACKAGES.get(method, ()) if find_spec(name) is None]:
        names = " ".join(missing)
        got = f"the weights of {quoted(source.name)}, of {quoted(method)}, cannot be read without {names}"
        raise ModelError(f"{got}; expected it to be installed; run pip install {names}")
