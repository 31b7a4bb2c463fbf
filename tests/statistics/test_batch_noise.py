"""Batch noise against batches really formed, running statistics against nn.BatchNorm1d, and draws."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normscope.data.batch_sampling import Drawing, Plan, plans, random_bits
from normscope.errors import UsageError
from normscope.statistics import batch_noise as module
from normscope.statistics.batch_composition import filling
from normscope.statistics.batch_noise import Noise, merged, noise, running
from normscope.statistics.moments import Moments
from tests.support.reference import batch_noise

PARTS = (
    "tid_mean", "tid_variance", "elementwise_mean", "elementwise_variance",
    "distance_mean", "distance_variance",
)  # fmt: skip


def corpus(lengths: Sequence[int], features: int = 7, seed: int = 0, shift: float = 0.0) -> list[Any]:
    """Texts that differ in their means, as real ones do, and features that differ in scale."""
    dice = np.random.default_rng(seed)
    scale = np.exp(dice.normal(size=features))
    return [
        shift + scale * (dice.normal(size=(n, features)) + dice.normal(size=features) + 0.02 * n)
        for n in lengths
    ]


def moments(texts: Sequence[Any]) -> Moments:
    each = [Moments.of(torch.from_numpy(x)) for x in texts]
    return Moments(*(torch.cat([getattr(m, name) for m in each]) for name in ("count", "mean", "m2")))


def drawn(texts: Sequence[Any], **options: Any) -> list[Plan]:
    return plans(Drawing(**options), range(len(texts)), [len(x) for x in texts])


def measured(texts: Sequence[Any], found: list[Plan], momentum: float | None = None) -> list[Noise]:
    return noise(moments(texts), [torch.from_numpy(plan.texts) for plan in found], momentum)


def assert_equal(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-9, atol=1e-13)


def assert_is_the_reference(texts: list[Any], found: list[Plan], momentum: float | None = None) -> None:
    for plan, got in zip(found, measured(texts, found, momentum), strict=True):
        want = batch_noise(texts, plan.texts, momentum)
        for name in PARTS:
            assert_equal(getattr(got, name), want[name])
        if momentum is not None:
            assert got.running is not None
            for name in ("tid_mean", "tid_variance", "end_mean", "end_variance"):
                assert_equal(getattr(got.running, name), want["running"][name])


LENGTHS = [3, 9, 1, 17, 5, 5, 12, 2, 9, 30, 4, 4, 6, 21, 8, 3, 11]


@pytest.mark.parametrize("momentum", [None, 0.1, 1.0])
@pytest.mark.parametrize("part", [1, 200, 1 << 19])
def test_every_number_is_that_of_batches_really_formed(
    part: int, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", part)
    texts = corpus(LENGTHS)
    assert_is_the_reference(texts, drawn(texts, sizes=(2, 3, 8, 16), draws=3), momentum)


@given(
    lengths=st.lists(st.integers(2, 9), min_size=2, max_size=12),
    size=st.integers(1, 12),
    shift=st.sampled_from([0.0, 1e4]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_any_corpus_and_size(lengths: list[int], size: int, shift: float, seed: int) -> None:
    texts = corpus(lengths, seed=seed, shift=shift)
    found = drawn(texts, sizes=(min(size, len(lengths)),), draws=2, seed=seed)
    # Beside a mean of 1e4, float64 itself leaves 1e-12 of a distance of 1e-4 and more.
    got, want = measured(texts, found), [batch_noise(texts, plan.texts) for plan in found]
    for one, other in zip(got, want, strict=True):
        for name in PARTS:
            scale = 1e-9 if not shift else 1e-7
            np.testing.assert_allclose(getattr(one, name), other[name], rtol=scale, atol=scale / 100)


def test_all_texts_in_one_batch_are_the_corpus() -> None:
    texts = corpus(LENGTHS)
    found = [plan for plan in drawn(texts, sizes=(17,), draws=1) if plan.order == "random"]
    (got,) = measured(texts, found)
    for name in PARTS:
        assert float(getattr(got, name)) < 1e-14


def test_a_mean_of_1e8_beside_a_variance_of_1() -> None:
    texts = corpus(LENGTHS, shift=1e8)
    whole = merged(moments(texts), torch.arange(len(texts))[None])
    np.testing.assert_allclose(whole.variance()[0], np.concatenate(texts).var(0), rtol=1e-7)


def test_features_without_spread_are_left_out_of_the_elementwise_form() -> None:
    texts = corpus(LENGTHS)
    for x in texts:
        x[:, 2] = 0.1  # constant in the corpus
        x[:, 4] = len(x) / 3  # constant in every text, and so in batches of one length
    found = drawn(texts, sizes=(1, 2), draws=2)
    assert_is_the_reference(
        [x for x in texts if len(x) > 1], drawn([x for x in texts if len(x) > 1], sizes=(1,))
    )
    for one in measured(texts, found):
        known = one.tid_mean.isfinite()
        assert one.elementwise_mean[known].isfinite().all()
        assert float(one.elementwise_mean[known].max()) < 1e3


def test_a_corpus_without_any_spread_has_no_relative_noise() -> None:
    texts = [np.full((3, 2), 0.1)] * 4
    for one in measured(texts, drawn(texts, sizes=(2,)), momentum=0.1):
        assert one.tid_mean.isnan().all()
        assert one.elementwise_mean.isnan().all()
        assert float(one.distance_mean.max()) < 1e-15


def test_a_batch_of_one_token_has_no_variance() -> None:
    texts = corpus([1, 1, 4, 5])
    (random, *_) = measured(texts, drawn(texts, sizes=(1,), draws=1), momentum=0.5)
    assert int(random.tid_mean.isnan().sum()) == 2
    assert random.running is not None
    assert random.running.tid_mean.shape == (1,)
    alone = [np.ones((1, 3)), np.zeros((1, 3))]
    for one in measured(alone, drawn(alone, sizes=(1,), draws=1), momentum=0.5):
        assert one.tid_mean.isnan().all()
        assert one.running is None


def test_noise_falls_with_the_square_root_of_the_size_for_texts_that_are_nothing_alike() -> None:
    dice = np.random.default_rng(1)
    texts = [dice.normal(size=(4, 30)) for _ in range(2048)]
    found = [plan for plan in drawn(texts, sizes=(4, 16, 64)) if plan.order != "given"]
    by_plan = {
        (p.size, p.order): float(n.tid_mean.mean())
        for p, n in zip(found, measured(texts, found), strict=True)
    }
    for order in ("random", "length"):
        assert by_plan[4, order] / by_plan[16, order] == pytest.approx(2, rel=0.05)
        assert by_plan[16, order] / by_plan[64, order] == pytest.approx(2, rel=0.05)


def test_where_length_decides_the_mean_batching_by_length_makes_the_noise_worse() -> None:
    dice = np.random.default_rng(2)
    texts = [dice.normal(size=(n, 8)) + n for n in dice.integers(2, 40, size=256)]
    found = drawn(texts, sizes=(16,))
    got = {p.order: float(n.tid_mean.mean()) for p, n in zip(found, measured(texts, found), strict=True)}
    assert got["length"] > 3 * got["random"]
    assert got["given"] == pytest.approx(got["random"], rel=0.3)


@pytest.mark.parametrize("momentum", [0.01, 0.1, 0.9, 1.0])
def test_running_statistics_are_those_of_batchnorm(momentum: float) -> None:
    dice = torch.Generator().manual_seed(0)
    batches = [torch.randn(5, 3, generator=dice, dtype=torch.float64) + i / 40 for i in range(200)]
    norm = nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    norm.running_mean, norm.running_var = batches[0].mean(0), batches[0].var(0)
    for x in batches:
        norm(x)
    got = running(torch.stack([x.mean(0) for x in batches]), momentum)[-1]
    torch.testing.assert_close(got, norm.running_mean, rtol=1e-12, atol=1e-14)
    got = running(torch.stack([x.var(0) for x in batches]), momentum)[-1]
    torch.testing.assert_close(got, norm.running_var, rtol=1e-12, atol=1e-14)


# Draws


def test_chance_is_the_same_on_every_machine() -> None:
    assert random_bits(0, 0) == 11807284506806067046
    assert random_bits(1, 2, 3) == 1853286989701629226
    assert random_bits(1, 23) != random_bits(12, 3)
    assert np.mean([random_bits(7, i) / 2**64 for i in range(4000)]) == pytest.approx(0.5, abs=0.02)


def test_draws_repeat_and_the_seed_changes_them() -> None:
    texts = corpus(LENGTHS)
    one, same, other = (drawn(texts, sizes=(4,), seed=seed) for seed in (3, 3, 4))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a.texts, b.texts)
    assert [(a.texts == c.texts).all() for a, c in zip(one, other, strict=True)] == [False, False, True]


def test_draws_go_by_the_place_in_the_corpus_and_not_by_how_many_are_kept() -> None:
    """Two sources keep the order that chance gave them, whatever is drawn beside them."""
    few = plans(Drawing(sizes=(1,), draws=1), [5, 9, 40], [1, 1, 1])[0].texts.flatten()
    many = plans(Drawing(sizes=(1,), draws=1), [1, 5, 9, 22, 40], [1] * 5)[0].texts.flatten()
    among = [[5, 9, 40].index(s) for s in np.array([1, 5, 9, 22, 40])[many] if s in (5, 9, 40)]
    assert few.tolist() == among


def test_each_draw_uses_every_text_at_most_once_and_drops_what_does_not_fill() -> None:
    texts = corpus(LENGTHS)
    for plan in drawn(texts, sizes=(5,), draws=4):
        per_draw = plan.texts.reshape(-1, 3, 5)
        assert len(per_draw) == (1 if plan.order == "given" else 4)
        assert all(len(set(draw.flatten().tolist())) == 15 for draw in per_draw)
    random, _, given = drawn(texts, sizes=(5,), draws=40)
    np.testing.assert_array_equal(given.texts, np.arange(15).reshape(3, 5))
    left_out = {i for draw in random.texts.reshape(40, -1) for i in {*range(17)} - {*draw.tolist()}}
    assert len(left_out) == 17, "no text is always in"


def test_batches_by_length_are_consecutive_lengths_in_an_order_by_chance() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(2, 30, size=64)]
    _, alike, _ = plans(Drawing(sizes=(4,), draws=1), range(64), lengths)
    rows = [[lengths[i] for i in batch] for batch in alike.texts]
    assert [n for row in sorted(rows) for n in row] == sorted(lengths)
    assert rows != sorted(rows)


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        (1, []),
        (2, [2]),
        (7, [2]),
        (8, [2]),
        (16, [2, 4]),
        (61, [2, 4, 8]),
        (10**4, [2**k for k in range(1, 11)]),
    ],
)
def test_sizes_are_powers_of_two_that_give_four_batches(texts: int, sizes: list[int]) -> None:
    found = plans(Drawing(draws=1), range(texts), [1] * texts)
    assert sorted({plan.size for plan in found}) == sizes


def test_asked_sizes_are_sorted_and_too_large_ones_left_out() -> None:
    found = plans(Drawing(sizes=(8, 3, 3, 99), draws=1), range(10), [1] * 10)
    assert [plan.size for plan in found] == [3, 3, 3, 8, 8, 8]


@pytest.mark.parametrize(
    "bad",
    [
        {"sizes": (0,)}, {"sizes": (2.5,)}, {"draws": 0}, {"seed": -1}, {"seed": 1.5}, {"momentum": 0.0},
        {"momentum": 1.1}, {"momentum": math.nan}, {"samples": 0}, {"table_memory": 0},
    ],
)  # fmt: skip
def test_values_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"expected .*; "):
        Drawing(**bad)


# What batches hold


def test_filling_is_what_counting_finds() -> None:
    dice = np.random.default_rng(3)
    counted = [dice.random(n) < 0.8 for n in dice.integers(2, 25, size=80)]
    texts = np.stack([dice.permutation(80)[:40] for _ in range(6)])
    got = filling(counted, texts)
    cells: list[tuple[int, int, int]] = []  # position, texts there, positions of the batch
    padding = slots = 0
    for batch in texts:
        flags = [counted[i] for i in batch]
        longest = max(map(len, flags))
        padding += sum(longest - len(f) for f in flags)
        slots += longest * len(flags)
        reach = [sum(bool(f[t]) for f in flags if t < len(f)) for t in range(longest)]
        last = max(t for t, n in enumerate(reach) if n)
        cells += [(t, n, last + 1) for t, n in enumerate(reach) if n]
    late = np.median([n for t, n, positions in cells if t >= 0.75 * positions])
    assert got.padding_share == pytest.approx(padding / slots, rel=1e-12)
    assert got.tokens.tolist() == [sum(int(counted[i].sum()) for i in batch) for batch in texts]
    assert got.positions_short == pytest.approx(np.mean([n < 30 for _, n, _ in cells]), rel=1e-12)
    assert got.late_samples == late
    assert got.variance_error == pytest.approx(math.sqrt(2 / (late - 1)), rel=1e-12)
    for t, mean in enumerate(got.positions):
        there = [n for position, n, _ in cells if position == t]
        assert np.isnan(mean) if not there else mean == pytest.approx(np.mean(there), rel=1e-12)


def test_one_text_late_has_no_variance_and_excluded_positions_no_count() -> None:
    long, short = np.array([False, True, True, True, False]), np.array([False, True])
    got = filling([long, short], np.array([[0, 1]]))
    np.testing.assert_array_equal(got.positions, [np.nan, 2, 1, 1, np.nan])
    assert (got.late_samples, got.positions_short) == (1, 1)
    assert math.isnan(got.variance_error)
    assert got.padding_share == pytest.approx(0.3)
