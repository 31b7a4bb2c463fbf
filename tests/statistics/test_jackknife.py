"""The jackknife: its groups, its formula, its coverage, and where there is no interval."""

import math

import numpy as np
import pytest
import torch

from normscope.statistics.bootstrap import weights
from normscope.statistics.jackknife import (
    GROUPS,
    difference,
    groups_of,
    interval,
    quotient,
    replicates,
    student,
)


def means(sample: torch.Tensor) -> torch.Tensor:
    used = replicates(groups_of(len(sample)))
    return used @ sample / used.sum(1)


@pytest.mark.parametrize("count", [1, 2, 7, 32, 100])
def test_every_text_is_left_out_of_one_replicate(count: int) -> None:
    used = replicates(groups_of(count))
    assert used.shape == (1 + min(GROUPS, count), count)
    assert bool((used[0] == 1).all())
    assert (1 - used).sum(0).tolist() == [1.0] * count
    sizes = (1 - used[1:]).sum(1)
    assert float(sizes.max() - sizes.min()) <= 1


def test_groups_are_neighbours_so_that_texts_of_one_source_go_together() -> None:
    assert (np.diff(groups_of(330).numpy()) >= 0).all()
    dice, held = torch.Generator().manual_seed(0), 0
    for _ in range(200):  # 40 sources of 8 texts, alike within
        source = torch.randn(40, 1, generator=dice, dtype=torch.float64).expand(40, 8).reshape(-1)
        found = interval(means(source + 0.5 * torch.randn(320, generator=dice, dtype=torch.float64)))
        held += found.low <= 0 <= found.high
    assert held >= 0.88 * 200  # with random groups about half of them


@pytest.mark.parametrize(
    ("freedom", "expected"),  # from tables of Student's t
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (31, 2.040), (1000, 1.962)],
)
def test_quantiles_of_students_t(freedom: int, expected: float) -> None:
    assert student(freedom) == pytest.approx(expected, rel=2e-3)


def test_leaving_out_single_numbers_gives_the_interval_of_a_mean() -> None:
    """With a group a number the jackknife of a mean is its standard error, s / sqrt(n)."""
    sample = torch.tensor([1.0, 4.0, 2.0, 7.0, 5.0], dtype=torch.float64)
    half = 2.776 * float(sample.std()) / math.sqrt(5)
    found = interval(means(sample))
    assert (found.value, found.low, found.high) == pytest.approx((3.8, 3.8 - half, 3.8 + half), rel=1e-3)


@pytest.mark.parametrize("size", [40, 200])
def test_an_interval_covers_the_mean_about_as_often_as_it_says(size: int) -> None:
    dice, held = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        sample = torch.randn(size, generator=dice, dtype=torch.float64).mul(0.5).exp()
        found = interval(means(sample))
        held += found.low <= math.exp(0.125) <= found.high
    assert 0.90 * 400 <= held <= 0.985 * 400


def test_two_independent_samples_have_the_sum_of_their_variances() -> None:
    dice = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, generator=dice, dtype=torch.float64) + 5 for n in (64, 24))
    widths = [float(x.var() / len(x)) for x in (a, b)]
    found = interval(difference(means(a), means(b)))
    # 32 and 24 groups: the pooled replicates have their squares summed over both.
    expected = 2 * student(55) * math.sqrt(sum(widths))
    assert found.high - found.low == pytest.approx(expected, rel=0.15)
    ratio = interval(quotient(means(a), means(b)), log=True)
    assert ratio.value == pytest.approx(float(a.mean() / b.mean()))
    assert ratio.low < ratio.value < ratio.high


def test_an_interval_of_ratios_is_symmetric_in_logarithms_and_stays_in_range() -> None:
    values = torch.tensor([2.0, 1.9, 2.1, 2.05, 1.95], dtype=torch.float64)
    found = interval(values, log=True)
    assert found.low * found.high == pytest.approx(4.0)
    clamped = interval(torch.tensor([0.98, 0.9, 1.0, 0.99], dtype=torch.float64), -1.0, 1.0)
    assert (clamped.value, clamped.high) == (0.98, 1.0)


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], [1.0, 2.0, math.nan]])
def test_without_replicates_there_is_no_interval(values: list[float]) -> None:
    found = interval(torch.tensor(values, dtype=torch.float64))
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_bootstrap_weights_count_draws_and_are_repeatable() -> None:
    drawn = weights(7, seed=3)
    assert drawn.sum(1).tolist() == [7.0] * len(drawn)
    assert torch.equal(drawn, weights(7, seed=3))
    assert not torch.equal(drawn, weights(7, seed=4))
