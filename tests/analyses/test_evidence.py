"""The evidence on the claims against plain references, computed anew without each group of texts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from normscope.analyses.why.evidence import (
    LayerRows,
    explained_by_position,
    explained_by_text,
    late_positions,
    text_vectors,
)
from normscope.statistics.jackknife import replicates
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
def test_epsilon_squared_without_each_group_of_texts(shift: float) -> None:
    layer, group = rows([4, 2, 5, 3, 9, 1], shift=shift), torch.tensor([0, 1, 2, 0, 1, 2])
    by_position, by_text = (
        explained_by_position(layer, group)[0],
        explained_by_text(layer.by_text(), replicates(group)),
    )
    for r in range(4):
        used = (group != r - 1)[layer.text].numpy()
        x, position, text = (v.numpy()[used] for v in (layer.x, layer.position, layer.text))
        assert float(by_position[r]) == pytest.approx(epsilon2(x, position), abs=1e-9)
        assert float(by_text[r]) == pytest.approx(epsilon2(x, text), abs=1e-9)


def test_special_tokens_are_left_out_or_not() -> None:
    layer, group = rows([7, 3, 4, 6]), torch.tensor([0, 1, 0, 1])
    layer = replace(layer, special=(layer.position == 0) | (torch.arange(20) % 7 == 6))
    without, whole = explained_by_position(layer, group)
    for r in range(3):
        used = (group != r - 1)[layer.text].numpy()
        x, position, ordinary = layer.x.numpy(), layer.position.numpy(), ~layer.special.numpy()
        assert float(whole[r]) == pytest.approx(epsilon2(x[used], position[used]), abs=1e-9)
        assert float(without[r]) == pytest.approx(
            epsilon2(x[used & ordinary], position[used & ordinary]), abs=1e-9
        )


def test_float32_tokens_lose_nothing_that_matters() -> None:
    layer, group = rows([70, 30, 40, 30], shift=1e3), torch.tensor([0, 1, 0, 1])
    single, _ = explained_by_position(replace(layer, x=layer.x.float()), group)
    double, _ = explained_by_position(layer, group)
    np.testing.assert_allclose(single, double, atol=2e-5)


def test_text_vectors_are_averages_of_what_each_normalization_gives() -> None:
    layer = rows([4, 2, 5])
    found = text_vectors(layer, layer.by_text())
    x = layer.x.numpy()
    scale = np.sqrt(x.var(0) + layer.eps)
    given = {"feature": (x - x.mean(0)) / scale, "feature scale": x / scale, "feature centre": x - x.mean(0)}
    for n in range(3):
        own = layer.text.numpy() == n
        sequence = (x[own] - x[own].mean()) / np.sqrt(x[own].var() + layer.eps)
        np.testing.assert_allclose(found["sequence"][n], sequence.mean(0), atol=1e-12)
        for name, values in given.items():
            np.testing.assert_allclose(found[name][n], values[own].mean(0), atol=1e-12)
    assert torch.equal(found["own"], layer.output)


def test_the_scale_of_a_whole_text_leaves_its_direction() -> None:
    """So scaling within a text keeps similarities by arithmetic, and no claim can rest on it."""
    layer = rows([4, 2, 5, 6, 3])
    x, scales = layer.by_text(), torch.rand(5, 1, dtype=torch.float64) + 0.1
    kept = likeness_kept(x.mean, x.mean * scales, torch.ones(1, 5, dtype=torch.float64))
    assert float(kept) == pytest.approx(1.0)


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


def test_late_positions_are_reached_by_a_quarter_to_half_and_by_enough_for_two_batches() -> None:
    lengths = [2] * 20 + [5] * 10 + [9] * 6 + [12] * 3
    assert late_positions(rows(lengths), len(lengths), 4) == [2, 3, 4]  # 19 of 39 texts; 9 reach later ones
    assert late_positions(rows(lengths), len(lengths), 12) == []
    assert late_positions(rows([7] * 30), 30, 4) == []
    spread = late_positions(rows([*range(1, 101)]), 100, 4)
    assert (spread[0], spread[-1], len(spread)) == (51, 75, 8)
