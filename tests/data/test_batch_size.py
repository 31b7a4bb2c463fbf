"""The size of batches: how many texts fill one, and how it follows the memory."""

from hypothesis import given
from hypothesis import strategies as st

from normscope.data.batch_size import AUTO_TOKENS, BatchSize


def padded(lengths: list[int]) -> int:
    return len(lengths) * max(lengths)


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 300))
def test_a_batch_is_the_longest_start_that_its_tokens_hold(lengths: list[int], tokens: int) -> None:
    size = BatchSize(None)
    size.tokens = tokens
    # One text runs whatever its length. Padded tokens only grow with each text.
    starts = [n for n in range(1, len(lengths) + 1) if n == 1 or padded(lengths[:n]) <= tokens]
    number = size.fill(lengths)
    if len(starts) == len(lengths):
        assert number > len(lengths)
    else:
        assert number == max(starts)


def test_a_batch_of_a_number_of_texts_has_no_limit_of_tokens() -> None:
    size = BatchSize(8)
    assert size.fill([10**6] * 3) == 8
    size.grow()
    assert (size.texts, size.tokens) == (8, None)
    size.shrink(7, 7000)
    assert (size.asked, size.texts, size.tokens) == (8, 3, None)
    size.shrink(1, 1000)
    assert size.texts == 1


def test_auto_follows_the_memory_between_its_bounds() -> None:
    size = BatchSize(None)
    assert (size.asked, size.tokens) == (None, AUTO_TOKENS)
    for _ in range(10):
        size.grow()
    assert size.tokens == 64 * AUTO_TOKENS
    size.shrink(3, 1001)
    assert size.tokens == 500
    assert size.fill(iter([100] * 50)) == 5
    size.shrink(1, 1)
    assert (size.tokens, size.fill([9, 9])) == (1, 1)


def test_texts_one_by_one() -> None:
    for asked in (None, 32):
        size = BatchSize(asked)
        size.one_by_one()
        assert (size.asked, size.texts, size.tokens, size.fill([1, 1])) == (1, 1, None, 1)
