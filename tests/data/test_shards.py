"""Shards hold each text of a corpus once, and their reports merge to that of the whole corpus."""

import operator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import normscope
from normscope.data.batching import Batching
from normscope.data.media_files import Inputs
from normscope.data.shards import Shard
from normscope.errors import UsageError
from normscope.results.inspect import Report
from tests.data.test_batching import encoder
from tests.support import models
from tests.support.reports_alike import OWN, furthest

TEXTS = ["the cat", "sat on the mat", "", "the mat", "  ", "sat", "the cat sat on the cat", ""]
TOKENIZER = encoder()


@given(
    st.lists(st.sampled_from(["a", "b", "", " "]), max_size=30),
    st.integers(1, 6),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_shards_hold_each_text_once(texts: list[str], count: int, limit: int | None) -> None:
    named = [
        text and f"{i} {text}" if text.strip() else f"{text}\t" * (i + 1) for i, text in enumerate(texts)
    ]
    parts_of_texts = [list(Shard(i, count).of(Inputs(named), limit).texts or ()) for i in range(1, count + 1)]
    filled = [text for text in named if not text.isspace()][:limit]
    assert sorted(t for part in parts_of_texts for t in part if not t.isspace()) == sorted(filled)
    # Dealt out one by one, whatever is blank.
    assert [[t for t in part if not t.isspace()] for part in parts_of_texts] == [
        filled[i::count] for i in range(count)
    ]
    blank = [text for part in parts_of_texts for text in part if text.isspace()]
    whole = named[: named.index(filled[-1])] if filled and limit == len(filled) else named
    assert sorted(blank) == sorted(text for text in whole if text.isspace())


def test_files_and_the_texts_beside_them_are_dealt_out_alike(tmp_path: Path) -> None:
    images = [tmp_path / f"{i}.png" for i in range(5)]
    for image in images:
        image.touch()
    for number, kept in ((1, [0, 2]), (2, [1, 3])):
        part = Shard(number, 2).of(Inputs([*"abcde"], images), 4)
        assert list(part.texts or ()) == ["abcde"[i] for i in kept]
        assert list(part.images) == [images[i] for i in kept]


def test_a_shard_says_how_much_of_the_rest_is_its_own() -> None:
    hints = [
        operator.length_hint(Shard(1, 3).of(Inputs([*"abcdefg"]), limit).texts or ())
        for limit in (None, 4, 3)
    ]
    assert hints == [3, 2, 1]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "\u0661/2", "1 / 2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match=r"shard is .*; expected I/N"):
        Shard.read(text)


def inspected(model: Any, shard: Shard | None = None, texts: list[str] = TEXTS, **options: Any) -> Report:
    return normscope.inspect(
        model,
        iter(texts),
        tokenizer=TOKENIZER,
        batching=Batching(batch_size=3),
        moments=True,
        shard=shard,
        **options,
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return models.bert().to(torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_merge_to_the_whole(model: Any, count: int) -> None:
    parts = [inspected(model, Shard(i, count)) for i in range(1, count + 1)]
    merged = normscope.merge(parts)
    assert furthest(inspected(model).to_dict(), merged.to_dict(), OWN) < 1e-9
    assert merged.moments.shards == tuple(f"{i}/{count}" for i in range(1, count + 1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("per_call", [False, True])
def test_an_empty_shard_is_a_part_like_others(model: Any, order: tuple[int, ...], per_call: bool) -> None:
    texts = ["the cat", "", "sat on the mat"]
    parts = [inspected(model, Shard(i, 3), texts, per_call=per_call) for i in (1, 2, 3)]
    assert [part.run.texts for part in parts] == [1, 1, 0]
    note = "shard 3/3 holds no text: there are fewer texts than shards"
    assert parts[2].warnings == (note,)
    merged = normscope.merge([parts[i] for i in order])
    whole = inspected(model, None, texts, per_call=per_call)
    assert furthest(whole.to_dict(), merged.to_dict(), (*OWN, "warnings")) < 1e-9
    assert merged.warnings == (*whole.warnings, note) or set(merged.warnings) == {*whole.warnings, note}


def test_empty_parts_alone_merge_to_an_empty_report(model: Any) -> None:
    parts = [inspected(model, Shard(i, 9), ["the cat"]) for i in (8, 9)]
    merged = normscope.merge(parts)
    assert (merged.run.texts, list(merged.layers)) == (0, list(parts[0].layers))


def test_shards_that_are_missing_are_told_until_they_come(model: Any) -> None:
    first, second, third = (inspected(model, Shard(i, 3)) for i in (1, 2, 3))
    some = normscope.merge([third, first])
    assert "shards are missing: 1 of 3, the first is 2/3" in some.warnings
    assert not any("missing" in note for note in normscope.merge([some, second]).warnings)


def test_a_shard_given_twice_is_warned_about(model: Any, tmp_path: Path) -> None:
    part = inspected(model, Shard(1, 2))
    paths = [tmp_path / name for name in ("one", "two")]
    for path, seconds in zip(paths, (1.0, 2.0), strict=True):
        normscope.write_moments(replace(part, run=replace(part.run, seconds=seconds)), path)
    merged = normscope.merge(paths)
    note, _ = (line for line in merged.warnings if line not in part.warnings)
    assert (
        note
        == f"{str(paths[1])!r} is shard 1/2, as a part before it is: right only where their corpora differ"
    )
    normscope.write_moments(merged, tmp_path / "both")
    again = normscope.merge([tmp_path / "both", inspected(model, Shard(2, 2))])
    assert again.moments.shards == ("1/2", "2/2")
