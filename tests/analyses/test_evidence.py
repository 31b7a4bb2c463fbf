"""The evidence on the claims against plain references in which texts are really drawn, one by one."""

from typing import Any

import numpy as np
import pytest
import torch

from normscope.analyses.why.evidence import (
    LayerRows,
    explained_by_position,
    explained_by_text,
    late_share,
    sentence_vectors,
)
from normscope.statistics.bootstrap import interval, weights
from normscope.statistics.similarity import likeness_kept

D = 5


def rows(lengths: list[int], seed: int = 0, shift: float = 0.0) -> LayerRows:
    dice = torch.Generator().manual_seed(seed)
    text = torch.tensor([n for n, length in enumerate(lengths) for _ in range(length)])
    position = torch.tensor([t for length in lengths for t in range(length)])
    x = torch.randn(len(text), D, generator=dice, dtype=torch.float64) + shift
    x += torch.randn(len(lengths), D, generator=dice, dtype=torch.float64)[text]
    x += torch.randn(max(lengths), D, generator=dice, dtype=torch.float64)[position]
    output = torch.randn(len(lengths), D, generator=dice, dtype=torch.float64)
    special = torch.zeros(len(text), dtype=torch.bool)
    return LayerRows("layer", 1e-5, x, text, position, special, output)


def drawn(layer: LayerRows, times: Any) -> list[tuple[Any, Any, Any]]:
    """The texts as often as they were drawn: (x, positions, the number of the draw)."""
    found: list[tuple[Any, Any, Any]] = []
    for n, count in enumerate(times):
        for _ in range(int(count)):
            own = layer.text == n
            found.append((layer.x[own].numpy(), layer.position[own].numpy(), n))
    return found


def epsilon2(x: Any, group: Any) -> float:
    """One-way ANOVA, straight from its definition."""
    mean = x.mean(0)
    total = ((x - mean) ** 2).sum()
    kinds = np.unique(group)
    between = sum((group == g).sum() * ((x[group == g].mean(0) - mean) ** 2).sum() for g in kinds)
    eta2 = between / total
    return float(1 - (1 - eta2) * (len(x) - 1) / (len(x) - len(kinds)))


WEIGHTS = torch.tensor([[1, 1, 1, 1], [2, 0, 1, 1], [0, 3, 0, 1], [1, 1, 2, 0]], dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_epsilon_squared_of_resampled_texts(shift: float) -> None:
    layer = rows([4, 2, 5, 3], shift=shift)
    by_position = explained_by_position(layer, WEIGHTS)
    by_text = explained_by_text(layer, WEIGHTS)
    for r, times in enumerate(WEIGHTS):
        texts = drawn(layer, times)
        x = np.concatenate([x for x, _, _ in texts])
        positions = np.concatenate([p for _, p, _ in texts])
        draws = np.concatenate([np.full(len(p), i) for i, (_, p, _) in enumerate(texts)])
        assert float(by_position[r]) == pytest.approx(epsilon2(x, positions), abs=1e-9)
        assert float(by_text[r]) == pytest.approx(epsilon2(x, draws), abs=1e-9)


def test_sentence_vectors_are_averages_of_what_each_normalization_gives() -> None:
    layer = rows([4, 2, 5])
    found = sentence_vectors(layer)
    x = layer.x.numpy()
    bn = (x - x.mean(0)) / np.sqrt(x.var(0) + layer.eps)
    for n in range(3):
        own = layer.text.numpy() == n
        sequence = (x[own] - x[own].mean()) / np.sqrt(x[own].var() + layer.eps)
        np.testing.assert_allclose(found["sequence"][n], sequence.mean(0), atol=1e-12)
        np.testing.assert_allclose(found["feature"][n], bn[own].mean(0), atol=1e-12)
    assert torch.equal(found["own"], layer.output)


def test_likeness_kept_is_a_correlation_over_pairs_of_different_texts() -> None:
    a, b = (
        torch.randn(4, D, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    several = WEIGHTS[[0, 1, 3]]  # Two texts alone make one pair, and no correlation.
    found = likeness_kept(a, b, several)
    for r, times in enumerate(several):
        texts = [n for n, count in enumerate(times) for _ in range(int(count))]
        pairs = [(i, j) for i in texts for j in texts if i != j]

        def similarity(v: Any, i: int, j: int) -> float:
            return float(v[i] @ v[j] / v[i].norm() / v[j].norm())

        expected = np.corrcoef([[similarity(v, i, j) for i, j in pairs] for v in (a, b)])[0, 1]
        assert float(found[r]) == pytest.approx(expected, abs=1e-9)


def test_texts_that_are_all_alike_have_their_likeness_told_apart() -> None:
    dice = torch.Generator().manual_seed(0)
    a, b = (1 + 1e-5 * torch.randn(6, D, dtype=torch.float64, generator=dice) for _ in range(2))
    unit = [(v / v.norm(dim=1, keepdim=True)).numpy() for v in (a, b)]
    # 1 - cosine is half the squared distance, which loses no digits.
    pairs = [(i, j) for i in range(6) for j in range(i)]
    apart = [[((u[i] - u[j]) ** 2).sum() for i, j in pairs] for u in unit]
    expected = np.corrcoef(apart)[0, 1]
    assert float(likeness_kept(a, b, torch.ones(1, 6).double())) == pytest.approx(expected, abs=1e-4)


def test_late_positions_are_those_that_fewer_than_half_reach() -> None:
    lengths = torch.tensor([2, 4, 10])
    found = late_share(lengths, torch.tensor([[1, 1, 1], [2, 1, 0], [0, 0, 3]]).double())
    # Half of 2, 4, 10 reach 4 of 10 positions; of 2, 2, 4 two; of 10, 10, 10 all.
    assert found.tolist() == pytest.approx([0.6, 0.8, 0.0])


def test_equal_lengths_leave_no_late_positions() -> None:
    assert late_share(torch.tensor([7, 7, 7]), torch.ones(1, 3, dtype=torch.float64)).item() == 0


def test_weights_count_draws_and_are_repeatable() -> None:
    drawn = weights(7, seed=3)
    assert drawn.sum(1).tolist() == [7.0] * len(drawn)
    assert torch.equal(drawn, weights(7, seed=3))
    assert not torch.equal(drawn, weights(7, seed=4))


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """Of 200 samples of a known distribution, about 95 % of the intervals hold its mean."""
    dice, held = torch.Generator().manual_seed(0), 0
    draws = weights(60, seed=1)
    for _ in range(200):
        sample = torch.randn(60, generator=dice, dtype=torch.float64).exp()
        found = interval(float(sample.mean()), draws @ sample / 60)
        held += found.low <= float(np.exp(0.5)) <= found.high
    assert 0.85 * 200 <= held <= 200 * 0.99


def test_the_interval_lies_around_the_value_and_not_around_its_biased_replicates() -> None:
    replicates = torch.linspace(9.0, 11.0, 101, dtype=torch.float64)
    found = interval(1.0, replicates)
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(1.95)


def test_an_interval_stays_where_the_number_can_be() -> None:
    """Replicates of a correlation of 0.98 whose mean is 0.9 reach 0.99: around the value that is above 1."""
    replicates = torch.linspace(0.81, 0.99, 101, dtype=torch.float64)
    found = interval(0.98, replicates, -1.0, 1.0)
    assert (found.value, found.high) == (0.98, 1.0)
    assert found.low == pytest.approx(0.8945)
    assert interval(0.02, replicates - 0.8, 0.0, 1.0).low == 0.0


def test_without_replicates_there_is_no_interval() -> None:
    found = interval(1.0, torch.full((10,), torch.nan))
    assert found.value == 1.0
    assert np.isnan(found.low)
    assert np.isnan(found.high)
