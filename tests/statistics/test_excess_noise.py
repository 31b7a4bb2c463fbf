"""Excess noise is 1 for independent tokens, and the design effect of clusters for texts that are alike."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch

from normscope.data.batch_sampling import Plan
from normscope.statistics.batch_noise import excess, noise
from normscope.statistics.expected_noise import SortedPairs, TextSums, random_excess, sorted_excess
from tests.statistics.test_batch_noise import LENGTHS, corpus, drawn, moments
from tests.support.reference import batch_noise

FEATURES = 16


def excesses(texts: Sequence[Any], found: Iterable[Plan]) -> list[tuple[Plan, float, float]]:
    """Return each plan with its average noise and its excess noise."""
    samples = moments(texts)
    counts = samples.count[:, 0]
    measured = []
    for plan in found:
        batches = torch.from_numpy(np.asarray(plan.texts))
        (one,) = noise(samples, [batches])
        value = excess(one.tid_mean, counts[batches].sum(1), float(counts.sum()))
        measured.append((plan, float(one.tid_mean.mean()), value))
    return measured


def normal(
    seed: int, texts: int, *, alike: float = 0.0, by_length: float = 0.0, length: int | None = None
) -> list[Any]:
    """Texts of exponential lengths, unless one is given; a share `alike` of the variance is the text's."""
    dice = np.random.default_rng(seed)
    lengths = 1 + dice.exponential(12, texts).astype(int) if length is None else [length] * texts
    own, shared = math.sqrt(1 - alike), math.sqrt(alike)
    return [
        own * dice.normal(size=(n, FEATURES)) + shared * dice.normal(size=FEATURES) + by_length * math.log(n)
        for n in lengths
    ]


def ratios(texts: Callable[[int], list[Any]], size: int, seeds: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the ratio by length over random of average noise, and that of excess noise, for each seed."""
    pairs = []
    for seed in range(seeds):
        random, alike, _ = excesses(texts(seed), drawn(texts(seed), sizes=(size,), seed=seed))
        assert (random[0].order, alike[0].order) == ("random", "length")
        pairs.append((alike[1] / random[1], alike[2] / random[2]))
    raw, corrected = np.array(pairs).T
    return raw, corrected


def assert_mean(values: Any, want: float, within: float) -> None:
    """Assert that the mean is as wanted up to four of its standard errors, and that these are small."""
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert error < within
    assert abs(np.mean(values) - want) < 4 * error


# Against independent tokens


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_it_is_that_of_batches_really_formed(shift: float) -> None:
    texts = corpus(LENGTHS, shift=shift)
    found = drawn(texts, sizes=(2, 3, 8, 16), draws=3)
    for plan, _, value in excesses(texts, found):
        want = batch_noise(texts, plan.texts)["excess"]
        assert value == pytest.approx(want, rel=1e-7 if shift else 1e-10)


@pytest.mark.parametrize("batches", [[[0, 1]], [[0, 2], [1, 3]], [[0, 1, 2]], [[0], [1], [2], [3]]])
def test_over_all_permutations_of_the_tokens_its_square_averages_to_exactly_1(
    batches: list[list[int]],
) -> None:
    lengths = [1, 2, 1, 2]
    tokens = np.exp(np.random.default_rng(0).normal(size=(sum(lengths), 2)))
    plan = Plan(len(batches[0]), "given", np.array(batches))
    squares = []
    for order in permutations(range(len(tokens))):
        texts = np.split(tokens[list(order)], np.cumsum(lengths)[:-1])
        squares.append(excesses(texts, [plan])[0][2] ** 2)
    assert np.mean(squares) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("size", [8, 32])
def test_independent_tokens_of_any_lengths_have_a_ratio_of_1(size: int) -> None:
    raw, corrected = ratios(lambda seed: normal(seed, 1024), size, 6)
    assert 1.2 < np.mean(raw) < 1.5
    assert_mean(corrected, 1, 0.03)


def test_batches_of_a_third_of_the_texts_are_no_less_noisy_than_chance() -> None:
    """Drawing 64 of 200 without replacement alone would divide the noise by 1.21."""
    texts = [normal(seed, 200, length=6) for seed in range(60)]
    squares = [
        value**2
        for seed, each in enumerate(texts)
        for plan, _, value in excesses(each, drawn(each, sizes=(64,), draws=2, seed=seed))
        if plan.order == "random"
    ]
    assert_mean(squares, 1, 0.03)


# Against texts that are alike


def test_texts_that_are_alike_whatever_their_length_have_a_ratio_of_1_too() -> None:
    """The ratio without correction is below 1: long texts, not numbers of tokens, decide the noise."""
    raw, corrected = ratios(lambda seed: normal(seed, 1024, alike=0.3), 8, 6)
    assert np.mean(raw) < 0.95
    assert_mean(corrected, 1, 0.02)


def test_texts_of_like_length_that_are_alike_have_a_ratio_above_1() -> None:
    raw, corrected = ratios(lambda seed: normal(seed, 512, by_length=0.3), 16, 3)
    assert (corrected > 2).all()
    assert raw == pytest.approx(corrected, rel=0.2)


@pytest.mark.parametrize(("alike", "length"), [(0.05, 20), (0.3, 8)])
def test_its_square_is_the_design_effect_of_clusters(alike: float, length: int) -> None:
    effects = []
    for seed in range(8):
        texts = normal(seed, 512, alike=alike, length=length)
        for plan, _, value in excesses(texts, drawn(texts, sizes=(4, 32), draws=2, seed=seed)):
            effects += [value**2] if plan.order == "random" else []
    assert_mean(effects, 1 + (length - 1) * alike, 0.04)


# Against its expectation in closed form


def test_over_all_batches_of_an_order_it_is_the_expectation_in_closed_form() -> None:
    texts = corpus(LENGTHS)
    samples, weights = moments(texts), torch.ones(1, len(texts), dtype=torch.float64)
    sums = TextSums.of(samples)
    order = samples.count[:, 0].argsort(stable=True)
    every = np.array([*combinations(range(len(texts)), 3)])
    windows = order.unfold(0, 3, 1).numpy()
    for batches, want in (
        (every, random_excess(sums.centred(weights), 3)),
        (windows, sorted_excess(sums.centred(weights), SortedPairs.of(order[None], weights, 3))),
    ):
        ((_, _, value),) = excesses(texts, [Plan(3, "given", batches)])
        assert value == pytest.approx(float(want), rel=1e-9)


# Unknown


def test_it_is_unknown_where_chance_leaves_no_noise() -> None:
    texts = corpus([4, 5, 6])
    whole = Plan(3, "given", np.array([[0, 1, 2]]))
    ((_, _, value),) = excesses(texts, [whole])
    assert math.isnan(value)
    assert all(math.isnan(e) for *_, e in excesses([np.full((3, 2), 0.1)] * 4, drawn([[0]] * 4, sizes=(2,))))


def test_batches_of_one_token_are_left_out() -> None:
    alone = [np.full((1, 2), i) for i in (0.0, 1.0, 2.0)]
    texts = [*alone[:2], *corpus([4, 5], features=2)]
    every, some = (Plan(1, "given", np.array(rows)) for rows in ([[0], [1], [2], [3]], [[2], [3]]))
    (_, _, value), (_, _, without) = excesses(texts, [every, some])
    assert value == without > 0
    assert math.isnan(excesses(alone, [Plan(1, "given", np.array([[0], [1], [2]]))])[0][2])
