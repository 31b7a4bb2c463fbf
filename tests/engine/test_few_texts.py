"""The tokens of a run over a few texts: as they read, in the texts' order, and without those not counted."""

from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

import normscope
from normscope import Batching
from normscope.data.batch import Batch
from normscope.engine.few_texts import MAX_TEXTS, FewTexts
from normscope.results.common import Pooled
from tests.support import models

TEXTS = ["The cat sat on the mat, unbelievably.", "", "Rain."]


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


def pooled(minilm: tuple[Any, Any], texts: list[str], **options: Any) -> Pooled | None:
    model, tokenizer = minilm
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=Batching(**options))
    return report.pooled


@pytest.mark.parametrize(("order", "batch_size"), [("length", 32), ("given", 1)])
def test_tokens_are_in_the_order_of_the_texts(minilm: tuple[Any, Any], order: str, batch_size: int) -> None:
    shown = pooled(minilm, TEXTS, order=order, batch_size=batch_size)
    assert shown is not None
    first, second = shown.texts
    assert first[:8] == ("[CLS]", "the", "cat", "sat", "on", "the", "mat", ",")
    assert "".join(first[8:-2]).replace("##", "") == "unbelievably"
    assert second == ("[CLS]", "rain", ".", "[SEP]")


def test_tokens_that_do_not_count_are_empty(minilm: tuple[Any, Any]) -> None:
    shown = pooled(minilm, TEXTS[2:], special_tokens="exclude")
    assert shown is not None
    assert shown.texts == (("", "rain", ".", ""),)


def test_many_texts_are_not_shown(minilm: tuple[Any, Any]) -> None:
    texts = [f"Text {i}." for i in range(MAX_TEXTS + 1)]
    assert pooled(minilm, texts) is None
    assert pooled(minilm, texts, batch_size=1) is None
    shown = pooled(minilm, texts[1:])
    assert shown is not None
    assert len(shown.texts) == MAX_TEXTS


def test_a_long_text_is_shown_by_its_beginning(minilm: tuple[Any, Any]) -> None:
    shown = pooled(minilm, ["rain " * 200])
    assert shown is not None
    assert shown.texts == (("[CLS]", *["rain"] * 63),)


def test_a_space_is_no_part_of_a_word() -> None:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    tokenizer.train_from_iterator(["the cat \u732b\n"] * 9, BpeTrainer(vocab_size=99, show_progress=False))
    build: Any = transformers.PreTrainedTokenizerFast
    shown = pooled((models.gpt2(), build(tokenizer_object=tokenizer)), ["the cat \u732b\n"])
    assert shown is not None
    assert shown.texts[0][:3] == ("the", "cat", "\u732b")
    assert "" not in shown.texts[0]


def test_a_tokenizer_that_only_encodes_will_do(minilm: tuple[Any, Any]) -> None:
    few = FewTexts()
    ids = torch.tensor([[7, 8]])
    few.add(Batch({"input_ids": ids}, ids > 0, ids > 0, (0,), ids > 0))
    assert few.pooled(1, object()) is None
    shown = few.pooled(1, minilm[1])
    assert shown is not None
    assert len(shown.texts[0]) == 2
