"""The maximum length of a text: the limits of models, and options within them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    CLIPConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from normscope.data.max_length import agreed_length, length_limit
from normscope.errors import ModelError, UsageError


@pytest.mark.parametrize(
    ("config", "own", "expected"),
    [
        (BertConfig(), None, 512),
        (BertConfig(), 128, 128),
        (BertConfig(), int(1e30), 512),
        (BertConfig(), 1e30, 512),
        (GPT2Config(), None, 1024),
        (GPT2Config(n_positions=64), 1024, 64),
        (LlamaConfig(max_position_embeddings=4096), None, 4096),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), None, 512),
        (XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512, 512),
        (MPNetConfig(max_position_embeddings=514), None, 512),
        (MPNetConfig(max_position_embeddings=514, pad_token_id=0), None, 512),
        (CLIPConfig(), None, 77),
        (T5Config(), None, None),
        (T5Config(), 512, 512),
        (SimpleNamespace(max_seq_len=2048), None, 2048),
        (SimpleNamespace(text_config=SimpleNamespace(n_positions=99)), None, 99),
        (SimpleNamespace(max_position_embeddings=-1), None, None),
        (RobertaConfig(max_position_embeddings=1, pad_token_id=1), None, 1),
        (None, None, None),
    ],
)
def test_the_length_limit_is_the_models_own(config: Any, own: float | None, expected: int | None) -> None:
    tokenizer: Any = SimpleNamespace(model_max_length=own)
    assert length_limit(tokenizer, config) == expected


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_the_limit_is_the_longest_text_such_a_model_takes(kind: str) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = AutoConfig.for_model(kind, vocab_size=50, max_position_embeddings=20, pad_token_id=1, **sizes)
    model: Any = AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call]
    tokenizer: Any = SimpleNamespace(model_max_length=None)
    limit = length_limit(tokenizer, config)
    assert limit == 18
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, limit + 1), 5))


@pytest.mark.parametrize(
    ("asked", "model", "expected"),
    [(None, None, None), (None, 24, 24), (24, 24, 24), (3, 24, 3), (25, None, 25)],
)
def test_what_is_asked_for_holds_else_the_models_limit(
    asked: int | None, model: int | None, expected: int | None
) -> None:
    assert agreed_length(asked, model, 2) == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (25, "max length is 25; expected at most 24, the model's limit; lower it"),
        (2, "max length is 2; expected at least 3, for 2 of them are special tokens; raise it"),
    ],
)
def test_a_length_that_cannot_be_is_refused(asked: int, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        agreed_length(asked, 24, 2)
    assert str(refused.value) == said


@pytest.mark.parametrize(("asked", "model"), [(None, 2), (None, 1), (1, 2)])
def test_a_model_without_room_for_a_word_is_refused(asked: int | None, model: int) -> None:
    said = f"the model takes at most {model} tokens; expected at least 3, for 2 of them are special"
    with pytest.raises(ModelError, match=said):
        agreed_length(asked, model, 2)
