"""Models of four families for the demo's tokenizer, and plain modules in place of their norms."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional

import normscope
from normscope import Batching
from tests.support import models

TEXTS = [text for text in dict.fromkeys(models.prose(80)) if text][:48]
SHORT = Batching(8, 20)
SIZES: dict[str, Any] = {"vocab_size": 30522, "hidden_size": 32, "intermediate_size": 48}


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=30522, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return transformers.GPT2Model(config)


def llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaModel(
        transformers.LlamaConfig(**SIZES, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    )


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=30522, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    return transformers.T5Model(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "minilm": lambda: models.demo()[0],
    "gpt2": lambda: models.spread_norms(gpt2()),
    "llama": lambda: models.spread_norms(llama()),
    "t5": lambda: models.spread_norms(t5()),
}


def batches(texts: list[str], side: str = "right") -> list[dict[str, torch.Tensor]]:
    """Return batches of 8 padded texts."""
    tokenizer = models.demo()[1]
    tokenizer.padding_side = side
    options = {"padding": True, "truncation": True, "max_length": 20, "return_tensors": "pt"}
    return [dict(tokenizer(texts[i : i + 8], **options)) for i in range(0, len(texts), 8)]


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        ids = batch["input_ids"]
        start = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        batch = {**batch, "decoder_input_ids": start, "decoder_attention_mask": batch["attention_mask"]}
    parameters = inspect.signature(model.forward).parameters
    with torch.no_grad():
        output = model(**{name: values for name, values in batch.items() if name in parameters})
    states: torch.Tensor = output.last_hidden_state
    return states


def norms(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if "Norm" in type(module).__name__}


def first_tokens(mask: torch.Tensor) -> torch.Tensor:
    """Mark each row's first token that is no padding, (B, T)."""
    return (mask.cumsum(1) == 1) & (mask == 1)


class Plain(nn.Module):
    """A norm in another way: `normalise` takes the input in float64 and whether tokens are first ones."""

    mask = torch.ones(0)

    def __init__(self, own: Any, normalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.own, self.normalise = own, normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normalise(x.double(), first_tokens(self.mask)[..., None]) * self.own.weight
        bias = getattr(self.own, "bias", None)
        out: torch.Tensor = y if bias is None else y + bias
        return out.to(x.dtype)


class Tokens(nn.Module):
    """Runs a norm and keeps its inputs at tokens that are no padding, and which of them are first ones."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own
        self.x: list[torch.Tensor] = []
        self.first: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = Plain.mask.bool()
        self.x.append(x[mask].double())
        self.first.append(first_tokens(Plain.mask)[mask])
        out: torch.Tensor = self.own(x)
        return out


def run_with(model: Any, modules: dict[str, nn.Module], feed: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Return the last hidden states (V, D) of the valid tokens with other modules in place of norms."""
    own = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        model.set_submodule(name, module)
    states = []
    for batch in feed:
        Plain.mask = batch["attention_mask"]
        states.append(hidden(model, batch)[Plain.mask.bool()])
    for name, module in own.items():
        model.set_submodule(name, module)
    return torch.cat(states)


def swapped_states(model: Any, feed: list[dict[str, torch.Tensor]], **options: Any) -> torch.Tensor:
    with normscope.swapped(model, **options):
        return torch.cat([hidden(model, batch)[batch["attention_mask"].bool()] for batch in feed])


def same_direction(states: torch.Tensor, expected: torch.Tensor) -> None:
    cosine = functional.cosine_similarity(states.double(), expected.double(), dim=1)
    assert float((1 - cosine).max()) < 3e-5


def inputs_of(model: Any, feed: list[dict[str, torch.Tensor]]) -> dict[str, Tokens]:
    seen = {name: Tokens(module) for name, module in norms(model).items()}
    run_with(model, dict(seen), feed)
    return seen


def epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", None) or module.eps)
