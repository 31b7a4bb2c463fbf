"""Batches that continue from a position, and the digest that proves the corpus is the same."""

import hashlib
import operator
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.data import batching as batches_module
from normscope.data.batch import Batch
from normscope.data.batching import Batches, Batching
from normscope.data.corpus import CorpusReader, Position
from normscope.errors import TextError
from tests.data.test_batching import encoder

TOKENIZER = encoder()
WORDS = [
    "the cat",
    "sat",
    " ",
    "",
    "the cat sat on the mat and the cat sat on the mat and sat again the",
    "on",
]


def batches_of(texts: list[str], batching: Batching, start: Position | None = None) -> Batches:
    batches = Batches(iter(texts), TOKENIZER, batching, max_length=None)
    if start is not None:
        batches.resume(start)
    return batches


def plain(batch: Batch) -> list[Any]:
    return [batch.inputs["input_ids"].tolist(), batch.valid.tolist(), batch.sources]


def walked(batches: Batches) -> Iterator[tuple[list[Any], Position]]:
    for batch in batches:
        yield plain(batch), batches.position()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), max_size=40),
    st.integers(1, 5),
    st.sampled_from(["length", "given"]),
    st.sampled_from(["include", "exclude"]),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(1, 7),
    st.data(),
)
def test_batches_go_on_where_others_have_stopped(
    texts: list[str], size: int, order: str, special: str, limit: int | None, window: int, data: Any
) -> None:
    batching = Batching(size, 8, order, special, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "_WINDOW_TEXTS", window)
        whole = batches_of(texts, batching)
        steps = list(walked(whole))
        if not steps:
            return
        at = data.draw(st.integers(0, len(steps) - 1))
        rest = batches_of(texts, batching, steps[at][1])
        assert [batch for batch, _ in walked(rest)] == [batch for batch, _ in steps[at + 1 :]]
    counted = ("texts", "skipped", "truncated", "pending", "ended")
    assert [getattr(rest, name) for name in counted] == [getattr(whole, name) for name in counted]
    assert rest.position() == whole.position()


def test_what_is_pending_is_told_apart_from_what_is_done() -> None:
    batches = batches_of(["sat", "the cat " * 9, "on", "the cat " * 12, "sat on"], Batching(2, 8))
    _, position = next(walked(batches))
    assert (position.read, position.texts, position.truncated) == (5, 5, 2)
    assert sorted(position.pending) == [0, 2, 4]
    assert position.pending_truncated == 0


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a", "b"], "ends after 2 texts; expected the 4"),
        (["a", "b", "c", "D"], "differs within the first 4 texts"),
        (["a", "bc", "", "d"], "differs within the first 4 texts"),
        (["b", "a", "c", "d"], "differs within the first 4 texts"),
        ([], "ends after 0 texts"),
    ],
)
def test_another_corpus_is_refused(texts: list[str], said: str) -> None:
    steps = list(walked(batches_of(["a", "b", "c", "d"], Batching(2))))
    with pytest.raises(TextError, match=said):
        list(batches_of(texts, Batching(2), steps[0][1]))


def test_a_corpus_that_has_grown_is_refused() -> None:
    steps = list(walked(batches_of(["a", "b", "c", "d"], Batching(2))))
    rest = batches_of(["a", "b", "c", "d", "sat"], Batching(2), steps[-1][1])
    with pytest.raises(TextError, match="the corpus goes on after 4 texts"):
        list(walked(rest))


def test_the_digest_is_that_of_a_file_with_a_text_in_every_line() -> None:
    corpus = CorpusReader(iter(["a", "", "b é"]))
    assert (list(corpus), corpus.read) == (["a", "", "b é"], 3)
    assert corpus.digest == hashlib.sha256("a\n\nb é\n".encode()).hexdigest()


def test_half_a_pair_is_one_line_where_texts_are_hashed_too() -> None:
    with pytest.raises(TextError, match="the text at index 1 holds half a UTF-16 pair at its character 3"):
        list(batches_of(["the cat", "a \ud800"], Batching(2)))


def test_a_corpus_says_what_is_left_of_it() -> None:
    corpus = CorpusReader(["a", "b", "c"])
    next(corpus)
    assert operator.length_hint(corpus) == 2
