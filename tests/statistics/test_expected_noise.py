"""Expected noise against every batch that there is, put together one by one."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from normscope.statistics.expected_noise import (
    SortedPairs,
    TextSums,
    by_length,
    grouped_ratio,
    inverse_hits,
    late_reach,
    random_excess,
    random_noise,
    sorted_excess,
)
from normscope.statistics.moments import Labels, Moments

SIZE = 3
LENGTHS = torch.tensor([3, 1, 6, 2, 2, 5, 4, 6, 3])
TEXT = torch.repeat_interleave(torch.arange(9), LENGTHS)
POSITION = torch.cat([torch.arange(int(n)) for n in LENGTHS])
X = torch.randn(len(TEXT), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
USED = torch.ones(2, 9, dtype=torch.float64)
USED[1, [2, 5]] = 0
ORDERS = by_length(LENGTHS, seed=0, orders=3)
SUMS = TextSums.of(Moments.by_group(X, Labels.of(TEXT)))


def left(used: Any) -> list[int]:
    return [n for n in range(9) if used[n] > 0]


def batch(x: Any, text: Any, texts: Any) -> Any:
    return x[torch.isin(text, torch.tensor(list(texts)))]


def excess(used: Any, batches: Any) -> float:
    """The root of the mean square of sums over batches, over its value for tokens permuted over the texts."""
    x = batch(X, TEXT, left(used))
    mean, tokens = x.mean(0), len(x)
    trace = float(((x - mean) ** 2).sum() / tokens)
    noise = null = 0.0
    for texts in batches:
        own = batch(X, TEXT, texts)
        noise += float(((own - mean).sum(0) ** 2).sum())
        null += len(own) * (tokens - len(own)) / (tokens - 1) * trace
    return math.sqrt(noise / null)


def windows(used: Any) -> list[list[int]]:
    orders = [[int(n) for n in order if int(n) in left(used)] for order in ORDERS]
    return [order[i : i + SIZE] for order in orders for i in range(len(order) - SIZE + 1)]


def test_random_batches_are_all_that_can_be_drawn() -> None:
    found = random_excess(SUMS.centred(USED), SIZE)
    for value, used in zip(found, USED, strict=True):
        assert float(value) == pytest.approx(excess(used, itertools.combinations(left(used), SIZE)))


def test_batches_by_length_are_all_windows() -> None:
    found = sorted_excess(SUMS.centred(USED), SortedPairs.of(ORDERS, USED, SIZE))
    for value, used in zip(found, USED, strict=True):
        assert float(value) == pytest.approx(excess(used, windows(used)))


def test_noise_with_replacement_is_that_of_independent_texts() -> None:
    x, tokens = X, LENGTHS.double()
    sums = torch.stack([(batch(x, TEXT, [n]) - x.mean(0)).sum(0) for n in range(9)])
    trace = float(((x - x.mean(0)) ** 2).sum() / len(x))
    expected = math.sqrt(float((sums**2).sum(1).mean()) / SIZE / trace) / float(tokens.mean())
    assert float(random_noise(SUMS.centred(USED[:1]), SIZE)) == pytest.approx(expected)


def test_groups_are_positions_with_a_mean_each() -> None:
    groups = [1, 2, 3]
    sums = TextSums.of_groups(X, TEXT, POSITION, 9, groups)
    found = grouped_ratio(sums.centred(USED), SIZE, ORDERS)
    for value, used in zip(found, USED, strict=True):
        ordered, random = [], []
        for t in groups:
            here = t == POSITION
            x, text = X[here], TEXT[here]
            known = batch(x, text, left(used))
            trace = float(((known - known.mean(0)) ** 2).sum() / len(known))

            def off(
                texts: Any, x: Any = x, text: Any = text, known: Any = known, trace: Any = trace
            ) -> float:
                own = batch(x, text, texts)
                if not 0 < len(own) < len(known):
                    return math.nan
                distance = float(((own.mean(0) - known.mean(0)) ** 2).sum()) / trace
                return float(distance * (len(known) - 1) / (len(known) - len(own)))

            ordered.append(np.nanmean([off(texts) for texts in windows(used)]))
            sizes = [len(batch(x, text, texts)) for texts in itertools.combinations(left(used), SIZE)]
            random.append(np.mean([1 / n for n in sizes if n]))
        assert float(value[0]) == pytest.approx(math.sqrt(np.mean(ordered) / np.mean(random)))
        alone = []
        for t in groups:
            text = TEXT[t == POSITION]
            whole = len(batch(text, text, left(used)))
            counts = [len(batch(text, text, texts)) for texts in windows(used)]
            alone.append(np.mean([1 / n for n in counts if 0 < n < whole]))
        assert float(value[1]) == pytest.approx(math.sqrt(np.mean(alone) / np.mean(random)))


def test_the_inverse_of_hits() -> None:
    for texts, members, size in ((9, 4, 3), (5, 5, 2), (6, 1, 4), (7, 6, 5)):
        hits = [sum(n < members for n in drawn) for drawn in itertools.combinations(range(texts), size)]
        expected = float(np.mean([1 / k for k in hits if k]))
        assert inverse_hits(texts, members, size) == pytest.approx(expected)
    assert math.isnan(inverse_hits(4, 0, 2))


def test_late_positions_are_reached_by_part_of_a_batch() -> None:
    found = late_reach(LENGTHS, USED, SIZE)
    for value, used in zip(found, USED, strict=True):
        shares = []
        for texts in itertools.combinations(left(used), SIZE):
            own = LENGTHS[list(texts)].tolist()
            late = range(int(0.75 * max(own)), max(own))
            shares.append(np.mean([np.mean([n > t for n in own]) for t in late]))
        assert float(value) == pytest.approx(np.mean(shares))
    assert late_reach(torch.full((5,), 7), torch.ones(1, 5), 3).item() == pytest.approx(1.0)
    assert math.isnan(late_reach(torch.tensor([1, 2]), torch.ones(1, 2), 3).item())


def test_independent_tokens_are_the_null_whatever_the_lengths() -> None:
    """Both are 1 on average for exponential lengths, also in batches of a third of all texts."""
    dice = torch.Generator().manual_seed(0)
    found = []
    for _ in range(60):
        lengths = torch.empty(48).exponential_(1 / 12, generator=dice).long() + 1
        text = torch.repeat_interleave(torch.arange(48), lengths)
        x = torch.randn(len(text), 6, generator=dice, dtype=torch.float64)
        one, orders = torch.ones(1, 48, dtype=torch.float64), by_length(lengths, 0)
        sums = TextSums.of(Moments.by_group(x, Labels.of(text))).centred(one)
        found.append(
            [
                float(value) ** 2
                for size in (4, 16)
                for value in (
                    random_excess(sums, size),
                    sorted_excess(sums, SortedPairs.of(orders, one, size)),
                )
            ]
        )
    mean, error = np.mean(found, 0), np.std(found, 0) / math.sqrt(60)
    assert (np.abs(mean - 1) < 3 * error + 0.01).all(), (mean, error)


def test_texts_of_equal_length_are_in_many_orders() -> None:
    orders = by_length(torch.tensor([2, 1, 2, 1, 2, 2]), seed=1, orders=8)
    assert {tuple(sorted(order[:2].tolist())) for order in orders} == {(1, 3)}
    assert len({tuple(order.tolist()) for order in orders}) > 4
