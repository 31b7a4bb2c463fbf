"""Small models, each with a batch that it takes, and the activations of their modules in float64."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.support import models

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def t5() -> Any:
    """Return a small random T5, whose norms are RMSNorms."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    model: Any = transformers.T5Model(transformers.T5Config(vocab_size=100, **sizes))
    return model.eval()


def vit() -> Any:
    """Return a small random ViT."""
    torch.manual_seed(0)
    model: Any = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=4, **SIZES))
    return model.eval()


def ids(**more: Any) -> dict[str, Any]:
    """Return a batch (3, 9) of token ids."""
    return {"input_ids": torch.randint(2, 100, (3, 9), generator=torch.Generator().manual_seed(1)), **more}


def pixels() -> dict[str, Any]:
    """Return a batch of three images."""
    return {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "minilm": (lambda: models.demo()[0], ids),
    "gpt2": (models.gpt2, ids),
    "llama": (models.llama, ids),
    "t5": (t5, lambda: ids(decoder_input_ids=ids()["input_ids"][:, :5])),
    "vit": (vit, pixels),
}


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Record the input and output of each call of every module from tensor to tensor, by its name."""
    seen: dict[str, list[tuple[Any, Any]]] = {}

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                seen.setdefault(name, []).append((args[0].double().numpy(), output.double().numpy()))

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
