"""Moments against two-pass numpy, their merge laws, and the place where the naive formula fails."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.statistics.batch_summary import CellSums
from normscope.statistics.buffers import Scratch
from normscope.statistics.moments import CoMoments, Labels, Likeness, Moments, Rows, Spread
from normscope.statistics.pending_sums import PivotSums

FEATURES, GROUPS = 3, 4


def rows_of(count: int, seed: int, shift: float = 0.0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64) * 3 + shift
    y = torch.tanh(x - shift) + 0.5 * torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return x, y, torch.randint(GROUPS, (count,), generator=generator)


def by_group(x: Any, y: Any, labels: Any) -> CoMoments:
    sums = PivotSums(4, FEATURES)
    sums.add(CellSums.of(x, y, Labels.of(labels), Scratch()))
    return sums.co_moments()


def co_moments(x: Any, y: Any, labels: Any) -> CoMoments:
    whole = CoMoments.empty(GROUPS, FEATURES)  # also where the last groups have no row
    whole.merge(by_group(x, y, labels))
    return whole


def tables(m: CoMoments) -> list[Any]:
    return [m.x.count, m.x.mean, m.x.m2, m.mean_y, m.co]


def assert_same(a: CoMoments, b: CoMoments, tolerance: float = 1e-12) -> None:
    for one, other in zip(tables(a), tables(b), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_by_group_is_numpys_mean_and_variance() -> None:
    x, y, labels = rows_of(50, seed=0)
    m = co_moments(x, y, labels)
    for group in range(GROUPS):
        own, other = x[labels == group].numpy(), y[labels == group].numpy()
        assert m.x.count[group].item() == len(own)
        np.testing.assert_allclose(m.x.mean[group], own.mean(0), rtol=1e-13)
        np.testing.assert_allclose(m.x.variance()[group], own.var(0), rtol=1e-13)
        covariance = [np.cov(own[:, d], other[:, d], bias=True)[0, 1] for d in range(FEATURES)]
        np.testing.assert_allclose(m.co[group] / len(own), covariance, rtol=1e-12)


def test_of_takes_all_rows_as_one_group() -> None:
    x, _, _ = rows_of(17, seed=1)
    m = Moments.of(x)
    np.testing.assert_allclose(m.mean[0], x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(m.variance()[0], x.numpy().var(0), rtol=1e-14)


@pytest.mark.parametrize("dim", [0, 1])
def test_pool_merges_cells_exactly(dim: int) -> None:
    x, y, labels = rows_of(60, seed=2)
    pooled = co_moments(x, y, labels).pool(dim)
    if dim == 0:
        np.testing.assert_allclose(pooled.x.variance()[0], x.numpy().var(0), rtol=1e-13)
        expected = ((x - x.mean(0)) * y).sum(0)
        np.testing.assert_allclose(pooled.co[0], expected, rtol=1e-12)
        np.testing.assert_allclose(pooled.mean_y[0], y.mean(0), rtol=1e-12)
    else:
        for group in range(GROUPS):
            own = x[labels == group]
            np.testing.assert_allclose(pooled.x.mean[group, 0], own.mean(), rtol=1e-12)
            np.testing.assert_allclose(pooled.x.variance()[group, 0], own.numpy().var(), rtol=1e-13)
            expected = ((own - own.mean()) * y[labels == group]).sum()
            np.testing.assert_allclose(pooled.co[group, 0], expected, rtol=1e-11)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_split_merges_to_the_whole(sizes: list[int], seed: int) -> None:
    x, y, labels = rows_of(sum(sizes), seed)
    whole, merged, start = co_moments(x, y, labels), CoMoments.empty(0, FEATURES), 0
    for size in sizes:  # a part of one row, or of none, is a part like any other
        part = slice(start, start + size)
        merged.merge(co_moments(x[part], y[part], labels[part]))
        start += size
    assert_same(merged, whole, 1e-10)
    assert merged.x.count.sum().item() == sum(sizes)


@given(seed=st.integers(0, 10**6), sizes=st.tuples(st.integers(0, 9), st.integers(0, 9)))
@settings(max_examples=40, deadline=None)
def test_order_of_merging_does_not_matter(seed: int, sizes: tuple[int, int]) -> None:
    a, b = (rows_of(size, seed + i) for i, size in enumerate(sizes))
    one, other = co_moments(*a), co_moments(*b)
    one.merge(co_moments(*b))
    other.merge(co_moments(*a))
    assert_same(one, other, 1e-10)


def test_empty_is_neutral_to_the_bit() -> None:
    x, y, labels = rows_of(9, seed=3)
    whole, merged = co_moments(x, y, labels), co_moments(x, y, labels)
    merged.merge(CoMoments.empty(GROUPS, FEATURES))
    assert all(torch.equal(a, b) for a, b in zip(tables(merged), tables(whole), strict=True))


def test_a_table_grows_for_a_part_with_more_groups() -> None:
    x, y, labels = rows_of(30, seed=4)
    low = labels < 2
    merged = by_group(x[low], y[low], labels[low])
    assert merged.co.shape == (2, FEATURES)
    merged.merge(co_moments(x[~low], y[~low], labels[~low]))
    assert_same(merged, co_moments(x, y, labels))


def test_a_large_mean_beside_a_small_variance() -> None:
    """Mean 1e8, variance 1: sum(x^2) / n - mean^2 fails here, so the test would catch it."""
    x, y, labels = rows_of(4000, seed=5, shift=1e8)
    expected = x.numpy().var(0)
    naive = (x.square().mean(0) - x.mean(0).square()).numpy()
    assert np.abs(naive / expected - 1).max() > 0.01
    merged = CoMoments.empty(0, FEATURES)
    for part in range(0, 4000, 7):
        merged.merge(co_moments(x[part : part + 7], y[part : part + 7], labels[part : part + 7]))
    np.testing.assert_allclose(merged.pool(0).x.variance()[0], expected, rtol=1e-9)
    co = ((x - x.mean(0)) * (y - y.mean(0))).sum(0)
    np.testing.assert_allclose(merged.pool(0).co[0], co, rtol=1e-7)


def test_a_constant_group_has_no_variance_at_all() -> None:
    """As the first token of a corpus: rounding must not look like a spread, even in float32."""
    x = torch.randn(1, FEATURES).repeat(1000, 1)
    y, labels = torch.randn(1000, FEATURES), torch.arange(1000) % 2
    m = co_moments(x, y, labels)
    assert (m.x.m2 == 0).all()
    assert (m.co == 0).all()
    assert torch.equal(m.x.mean[1].float(), x[0])


def test_no_data_reads_as_nan() -> None:
    m = Moments.empty(2, 2)
    assert m.variance().isnan().all()
    assert m.known_mean().isnan().all()


def test_float32_rows_merge_into_float64() -> None:
    x, y, labels = rows_of(64, seed=6, shift=5.0)
    merged = CoMoments.empty(0, FEATURES)
    merged.merge(co_moments(x.float(), y.float(), labels))
    assert {table.dtype for table in tables(merged)} == {torch.float64}
    np.testing.assert_allclose(merged.pool(0).x.variance()[0], x.numpy().var(0), rtol=2e-6)


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=20), cut=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_spread_of_parts_is_the_spread_of_all(values: list[float], cut: int) -> None:
    spread = Spread.empty()
    for part in (values[:cut], values[cut:]):
        spread.merge(Spread.of(torch.tensor(part, dtype=torch.float64)))
    assert spread.moments.count.item() == len(values)
    if values:
        assert (spread.low.item(), spread.high.item()) == (min(values), max(values))
        np.testing.assert_allclose(spread.moments.mean.item(), np.mean(values), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(spread.moments.variance().item(), np.var(values), rtol=1e-9, atol=1e-3)


def test_rows_take_each_tokens_own_statistics() -> None:
    x = torch.randn(5, 8, dtype=torch.float64) * 4 + 2
    rows = Rows.of(x)
    np.testing.assert_allclose(rows.mean[:, 0], x.numpy().mean(1), rtol=1e-14)
    np.testing.assert_allclose(rows.variance[:, 0], x.numpy().var(1), rtol=1e-14)
    assert Rows.of(x.half()).x.dtype == torch.float32


def test_rows_name_the_tokens_that_are_not_finite() -> None:
    x = torch.ones(4, 3)
    x[1, 2], x[3, 0] = math.nan, -math.inf
    assert Rows.of(x).finite().tolist() == [True, False, True, False]


def test_likeness_of_a_cell_without_spread_adds_nothing() -> None:
    x = torch.full((6, FEATURES), 3.0, dtype=torch.float64)
    alike = Likeness.of(co_moments(x, x, torch.zeros(6, dtype=torch.long)), eps=0.0)
    assert (alike.product.item(), alike.square.item()) == (0.0, 0.0)


def test_many_float32_rows_in_one_group_keep_their_digits() -> None:
    """A first row far out, and then more rows than float32 can add up one by one."""
    x = torch.randn(200_000, FEATURES)
    x[0] = 300.0
    m = Moments.by_group(x, Labels.of(torch.zeros(len(x), dtype=torch.long)))
    np.testing.assert_allclose(m.variance()[0], x.double().numpy().var(0), rtol=1e-5)
