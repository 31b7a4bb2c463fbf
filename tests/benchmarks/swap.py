"""The cost of `swap` on a small Llama with a large vocabulary, next to the bare forwards that it must run."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

import normscope
from normscope.analyses.swap.prefix_cache import Prefix
from normscope.data.batching import Batches
from normscope.norms.detection import find
from tests.benchmarks.hooks import seconds
from tests.support import models

TEXTS, TOKENS = 200, 64
ROUNDS = 3


def over_bare(threads: int) -> Callable[[], list[float]]:
    """Return what measures swap's time over that of (layers + 2) bare forwards, one ratio a round."""

    def measure() -> list[float]:
        torch.set_num_threads(threads)
        model, tokenizer = llama()
        texts = texts_of_tokens(tokenizer)
        held_out = [
            batch.inputs for batch in Batches(texts[1::2], tokenizer, normscope.Batching(), max_length=None)
        ]

        def swap() -> None:
            normscope.swap(model, texts, tokenizer=tokenizer)

        def bare() -> None:
            with torch.no_grad():
                run_bare(model, held_out)

        bare()
        return [seconds(swap) / seconds(bare) for _ in range(ROUNDS)]

    return measure


def llama() -> tuple[Any, Any]:
    """Return a random Llama of 4.5 million parameters, 4 layers of 128 features, with 30,522 tokens."""
    _, tokenizer = models.demo()
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=True, **sizes
    )
    model: Any = transformers.LlamaForCausalLM(config)
    return model.eval(), tokenizer


def texts_of_tokens(tokenizer: Any) -> list[str]:
    """Return texts of 64 tokens with their special ones."""
    text = " ".join(models.prose(2000))
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    size = TOKENS - 2
    return [tokenizer.decode(ids[i * size : (i + 1) * size]) for i in range(TEXTS)]


def run_bare(model: Any, batches: list[dict[str, Any]]) -> None:
    """Run the untouched model twice, and once for each layer from its block on."""
    norms = {norm.name: norm.module for norm in find(model)}
    prefix = Prefix(model, norms)
    for batch in batches:
        with prefix.recording():
            model(**batch)
        model(**batch)
        for name in norms:
            with prefix.replaying([name]):
                model(**batch)
    prefix.clear()
