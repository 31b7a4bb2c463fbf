"""Rows hold the tokenizer's own ids, cut as it cuts them, and special ids are recognised."""

from typing import Any

import pytest

from normscope.data.sample_sentences import SENTENCES
from normscope.data.tokenization import Row, Text, TextEncoder, special_ids
from tests.data.test_batching import WORDS, decoder, encoder


def encoded(tokenizer: Any, texts: Any, limit: int | None = None, *, excluding: bool = False) -> list[Row]:
    made = TextEncoder(tokenizer, asked=None, limit=limit, excluding=excluding)
    return made.encode([Text(10 * number, text) for number, text in enumerate(texts)])


@pytest.mark.parametrize("tokenizer", [encoder(), decoder(), decoder("$A </s>")])
@pytest.mark.parametrize("limit", [None, 5])
def test_rows_are_what_the_tokenizer_says(tokenizer: Any, limit: int | None) -> None:
    texts = SENTENCES * 6  # more than are handed to it at once
    rows = encoded(tokenizer, texts, limit)
    cut = {"truncation": True, "max_length": limit} if limit else {}
    said = [tokenizer(text, **cut) for text in texts]
    assert [row.ids for row in rows] == [one["input_ids"] for one in said]
    assert [row.types for row in rows] == [one.get("token_type_ids") for one in said]
    assert [row.source for row in rows] == [10 * number for number in range(len(texts))]
    whole = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert [row.cut for row in rows] == [limit is not None and length > limit for length in whole]
    assert len(texts) > 256
    assert any(row.cut for row in rows) == (limit is not None)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_not_tokenised_to_its_end(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = encoder()
    tokenizer.truncation_side = side
    longest = 0
    told = type(tokenizer).__call__

    def watched(self: Any, texts: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, *map(len, texts)) if isinstance(texts, list) else longest
        return told(self, texts, *arguments, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", watched)
    text = "alpha " * 1000 + "beta " * 1000
    (row,) = encoded(tokenizer, [text], 8)
    assert row.cut
    assert row.ids[1] == WORDS.index("alpha" if side == "right" else "beta")
    assert (longest < 300) == (side == "right")


def test_a_long_text_of_few_tokens_is_read_whole() -> None:
    text = "alpha" + " " * 500 + "beta"
    (row,) = encoded(encoder(), [text], 8)
    assert [WORDS[i] for i in row.ids] == ["[CLS]", "alpha", "beta", "[SEP]"]
    assert not row.cut


def test_what_a_row_counts_for() -> None:
    tokenizer = encoder()
    bare, full = encoded(tokenizer, ["[SEP]", "alpha"])
    counting = TextEncoder(tokenizer, asked=None, limit=None, excluding=False)
    excluding = TextEncoder(tokenizer, asked=None, limit=None, excluding=True)
    assert (counting.counts(bare), counting.counts(full)) == (True, True)
    assert (excluding.counts(bare), excluding.counts(full)) == (False, True)
    assert not counting.counts(full._replace(ids=[]))


def test_special_ids_are_those_named_and_those_of_the_template() -> None:
    assert special_ids(encoder()) == {WORDS.index("[CLS]"), WORDS.index("[SEP]")}
    assert special_ids(decoder()) == {1}
    assert special_ids(decoder("$A </s>")) == {0, 1}


def test_what_to_pad_with() -> None:
    def made(tokenizer: Any) -> tuple[int, int]:
        found = TextEncoder(tokenizer, asked=None, limit=None, excluding=False)
        return found.pad_id, found.pad_type

    tokenizer = decoder()
    assert made(tokenizer) == (1, 0)
    tokenizer.eos_token = None
    assert made(tokenizer) == (0, 0)
    tokenizer = encoder()
    tokenizer.pad_token, tokenizer._pad_token_type_id = "[MASK]", 1
    assert made(tokenizer) == (WORDS.index("[MASK]"), 1)


@pytest.mark.parametrize("made", [encoder, decoder])
@pytest.mark.parametrize("piece", ["alpha,", "我爱", "=", "the-cat."])
def test_a_long_line_without_blanks_is_cut_before_it_is_tokenised(
    made: Any, piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, longest = made(), 0
    told = type(tokenizer).__call__

    def watched(self: Any, texts: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, *map(len, texts)) if isinstance(texts, list) else longest
        return told(self, texts, *arguments, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", watched)
    text = piece * 4000
    (row,) = encoded(tokenizer, [text], 16)
    assert row.cut
    assert longest < len(text)
    assert row.ids == tokenizer(text, truncation=True, max_length=16)["input_ids"]
