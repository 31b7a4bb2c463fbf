"""Chat models for the tests: a small Llama, a byte-level tokenizer, and templates as models have them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tests.support import models

Wrapped: Any = PreTrainedTokenizerFast  # untyped in transformers

_HEAD = "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' }}"
_BODY = "{{ message['content'] + '<|end|>' }}"
_TAIL = "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
PLAIN = _HEAD + _BODY + _TAIL
"""ChatML, as many models have it: nothing marks what the assistant says."""
MARKED = (
    _HEAD
    + "{% if message['role'] == 'assistant' %}{% generation %}"
    + _BODY
    + "{% endgeneration %}{% else %}"
    + _BODY
    + "{% endif %}"
    + _TAIL
)
"""The same text, with generation markers."""
BACKWARDS = "{% for message in messages | reverse %}{{ message['content'] }}{% endfor %}"
"""A template whose first messages are not its beginning."""


def tokenizer(template: str | None = PLAIN) -> Any:
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<|start|>", "<|end|>"],
        show_progress=False,
    )
    core.train_from_iterator(models.prose(40), trainer)
    names = ["input_ids", "attention_mask"]
    made = Wrapped(tokenizer_object=core, eos_token="<|end|>", pad_token="<pad>", model_input_names=names)
    made.chat_template = template
    return made


def llama(**changes: Any) -> Any:
    return models.llama(vocab_size=300, **changes)


def conversations(count: int = 12) -> list[list[dict[str, str]]]:
    """Return conversations of two or four messages, every third one with a system message before them."""
    texts = [text[:60] for text in models.prose(4 * count)]
    made = []
    for i in range(count):
        said = texts[4 * i : 4 * i + (4 if i % 2 else 2)]
        roles = ["user", "assistant"] * 2
        messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
        made.append([{"role": "system", "content": "Be brief."}, *messages] if i % 3 == 0 else messages)
    return made


def write_jsonl(path: Path, chats: list[list[dict[str, str]]], field: str = "messages") -> Path:
    path.write_text("".join(json.dumps({field: chat, "id": i}) + "\n" for i, chat in enumerate(chats)))
    return path
