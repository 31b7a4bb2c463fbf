"""Rules leave out the tokens that they name, and count each token once."""

from typing import Any

import pytest
import torch

from normscope.data.batch import Batch
from normscope.data.batching import Batches, Batching
from normscope.data.token_selection import TokenRules, require_rules, token_ids, without
from normscope.errors import UsageError
from tests.data.test_batching import WORDS, decoder, encoder

TEXT = "alpha beta gamma alpha"  # [CLS] alpha beta gamma alpha [SEP]


def batch_of(text: str, start: int | None = None, **options: Any) -> Batch:
    (batch,) = Batches([text], encoder(), Batching(**options), max_length=None, start=start)
    return batch


def words(batch: Batch) -> list[str]:
    return [WORDS[i] for i in batch.inputs["input_ids"][batch.valid].tolist()]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, "[CLS] alpha beta gamma alpha [SEP]"),
        ({"exclude_tokens": ("alpha",)}, "[CLS] beta gamma [SEP]"),
        ({"exclude_tokens": (WORDS.index("alpha"), "[SEP]")}, "[CLS] beta gamma"),
        ({"skip_first": 2}, "beta gamma alpha [SEP]"),
        ({"skip_first": 2, "special_tokens": "exclude"}, "beta gamma alpha"),
        ({"skip_first": 1, "exclude_tokens": ["beta"], "special_tokens": "exclude"}, "alpha gamma alpha"),
    ],
)
def test_what_is_named_is_left_out_and_nothing_else(options: dict[str, Any], left: str) -> None:
    batch = batch_of(TEXT, **options)
    assert words(batch) == left.split()
    assert batch.mask.all()
    assert sum(batch.left_out.values()) == 6 - len(left.split())


def test_a_token_counts_under_the_first_rule_that_leaves_it_out() -> None:
    batch = batch_of(TEXT, skip_first=2, exclude_tokens=("alpha", "[CLS]"), special_tokens="exclude")
    assert batch.left_out == {"special": 2, "excluded": 2, "first": 0}


def test_the_rules_agree_with_a_loop_over_tokens() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 6, (5, 9))
    real = torch.rand(5, 9) < 0.8
    position, spoken = real.cumsum(1) - 1, torch.rand(5, 9) < 0.6
    left_out = TokenRules(frozenset({1, 2}), frozenset({2, 3}), 2).left_out(real, position, ids, spoken)
    for row in range(5):
        for column in range(9):
            token, at = int(ids[row, column]), int(position[row, column])
            first_rule = None
            if real[row, column]:
                rules = {
                    "special": token in (1, 2),
                    "excluded": token in (2, 3),
                    "first": at < 2,
                    "roles": not spoken[row, column],
                }
                first_rule = next((name for name, applies in rules.items() if applies), None)
            out = [name for name, mask in left_out.items() if mask[row, column]]
            assert out == ([] if first_rule is None else [first_rule])
            assert bool(without(real, left_out)[row, column]) == bool(
                real[row, column] and first_rule is None
            )


# A decoder reads the text shifted by its start token.

START = WORDS.index("[MASK]")


@pytest.mark.parametrize(
    ("options", "valid"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"special_tokens": "exclude"}, [0, 0, 1, 1, 1, 1]),
        ({"skip_first": 1}, [0, 1, 1, 1, 1, 1]),
        ({"exclude_tokens": ("alpha",)}, [1, 1, 0, 1, 1, 0]),
        ({"exclude_tokens": (START,)}, [0, 1, 1, 1, 1, 1]),
        ({"exclude_tokens": ("alpha",), "skip_first": 2}, [0, 0, 0, 1, 1, 0]),
    ],
)
def test_the_rules_apply_to_what_a_decoder_reads(options: dict[str, Any], valid: list[int]) -> None:
    batch = batch_of(TEXT, start=START, **options)
    assert batch.decoder_valid[0].int().tolist() == valid


def test_the_token_that_a_decoder_starts_with_is_a_special_one_and_of_no_padding() -> None:
    (batch,) = Batches([TEXT, "alpha"], encoder(), Batching(), max_length=None, start=START)
    assert batch.decoder_valid.int().tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    part = batch.part(slice(1, 2))
    assert part.decoder_valid.int().tolist() == [[1, 1, 1]]


# Texts of which nothing is left


def test_texts_of_which_nothing_is_left_are_skipped() -> None:
    batches = Batches(["alpha", TEXT, "beta alpha"], encoder(), Batching(skip_first=4), max_length=None)
    assert [words(batch) for batch in batches] == [["alpha", "[SEP]"]]
    assert (batches.texts, batches.skipped) == (1, 2)


def test_texts_that_a_screen_empties_are_skipped_with_their_counts() -> None:
    def screen(batch: Batch) -> Batch:
        valid = batch.valid & (batch.inputs["input_ids"] == WORDS.index("beta"))
        return Batch(batch.inputs, batch.mask, valid, batch.sources, valid, {"massive": 1})

    texts = ["alpha beta", "gamma " * 30, "alpha", "alpha", "beta beta"]
    batches = Batches(texts, encoder(), Batching(batch_size=2), max_length=5, screen=screen)
    made = list(batches)
    assert [words(batch) for batch in made] == [["beta"], ["beta", "beta"]]
    assert [batch.sources for batch in made] == [(0,), (4,)]
    assert all(batch.left_out == {"massive": 1} for batch in made)
    counts = batches.texts, batches.skipped, batches.truncated, batches.repeated
    assert counts == (2, 3, 0, 0)


# Which token a text names


def test_a_token_is_an_entry_of_the_vocabulary_or_text_of_one_token() -> None:
    made = decoder()
    assert token_ids(encoder(), ["[SEP]", "alpha", 4]) == {3, WORDS.index("alpha"), 4}
    assert token_ids(encoder(), ["ALPHA"]) == {WORDS.index("alpha")}
    assert token_ids(made, ["<|end|>"]) == {1}
    space = made(" ", add_special_tokens=False)["input_ids"]
    assert len(space) == 1
    assert token_ids(made, [" "]) == set(space)
    assert made.convert_ids_to_tokens(space) == ["Ġ"]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (("alpha beta",), "exclude tokens names 'alpha beta', which is 2 tokens; expected text of one token"),
        (("\N{ZERO WIDTH SPACE}",), "which is no token"),
        (("zebra",), "exclude tokens names 'zebra', which the tokenizer cannot read; expected text of one"),
        ((len(WORDS),), f"names the id {len(WORDS)}; expected an id from 0 to {len(WORDS) - 1}"),
        ((-1,), f"names the id -1; expected an id from 0 to {len(WORDS) - 1}"),
    ],
)
def test_a_token_that_is_none_is_an_error(tokens: tuple[int | str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        token_ids(encoder(), tokens)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exclude_tokens": "[SEP]"}, "exclude tokens is '\\[SEP\\]'; expected a list of token ids or texts"),
        ({"exclude_tokens": [1.5]}, "expected a list of token ids or texts"),
        ({"exclude_tokens": [True]}, "expected a list of token ids or texts"),
        ({"skip_first": -1}, "skip first is -1; expected a whole number from 0; change it"),
        ({"skip_first": True}, "skip first is True; expected a whole number from 0"),
        ({"skip_first": 1.0}, "skip first is 1.0; expected a whole number from 0"),
        ({"roles": ["assistant"]}, "roles were given without a chat template; expected both"),
        ({"roles": "assistant", "chat_template": True}, "roles is 'assistant'; expected a list of names"),
        ({"roles": [""], "chat_template": True}, "expected a list of names"),
    ],
)
def test_options_that_cannot_be_are_errors(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Batching(**options)


def test_a_watcher_takes_ids_alone() -> None:
    with pytest.raises(UsageError, match="exclude tokens is \\['a'\\]; expected a list of token ids; change"):
        require_rules(["a"], 0, named=False)
