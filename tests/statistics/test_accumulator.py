"""One layer's moments against the plain reference, on float64 tensors, however they are cut into batches."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.capture.layer_summary import measurements
from normscope.results.json_codec import to_plain
from normscope.statistics import metrics
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import TokenMask, align
from normscope.statistics.moments import Rows
from tests.support.reference import layer_norm, measure, rms_norm, stack, worst_error
from tests.support.running import Running

EPS = 1e-5
NORMS = {"layernorm": layer_norm, "rmsnorm": rms_norm}


def corpus(
    lengths: list[int], features: int, seed: int, shift: float = 0.0, *, massive: bool = False
) -> list[Any]:
    """Samples whose features differ in mean and scale, as a Transformer's do; with `massive` elements."""
    generator = np.random.default_rng(seed)
    mean, scale = generator.normal(size=features) * 3 + shift, np.exp(generator.normal(size=features))
    samples = [
        mean + scale * generator.normal(size=(n, features)) + 0.3 * generator.normal() for n in lengths
    ]
    if massive:
        samples[0][0, 1], samples[-1][-1, 1], samples[-1][0, 0] = 1e5, -2e5, 500.0
    return samples


def affine(features: int) -> tuple[Any, Any]:
    """A scale and a shift that bring some features to 6 in some tokens."""
    return 2 + 2 * np.cos(np.arange(features)), 4 * np.sin(np.arange(features))


def accumulate(
    samples: list[Any], norm: Any, batch: int, *, left: bool = False, fill: float = 0.0
) -> Accumulator:
    running = Running(Accumulator(samples[0].shape[1], EPS))
    for start in range(0, len(samples), batch):
        feed(running, samples[start : start + batch], norm, left=left, fill=fill)
    return running.read()


def feed(running: Running, samples: list[Any], norm: Any, *, left: bool, fill: float) -> None:
    longest = max(len(x) for x in samples)
    padded = np.full((len(samples), longest, samples[0].shape[1]), fill)
    mask = np.zeros(padded.shape[:2], dtype=bool)
    for i, x in enumerate(samples):
        part = slice(longest - len(x), None) if left else slice(len(x))
        padded[i, part], mask[i, part] = x, True
    real = torch.from_numpy(mask)
    where = align(padded.shape[:2], TokenMask(real, real), -1, torch.device("cpu"))
    x = where.take(torch.from_numpy(padded).reshape(-1, padded.shape[2]))
    y = norm(x.numpy(), EPS)
    weight, bias = affine(x.shape[1])
    running.update(Rows.of(x), torch.from_numpy(y), where, torch.from_numpy(np.abs(y * weight + bias)))


def read(moments: Accumulator) -> Any:
    return to_plain(
        {**{k.rstrip("_"): v for k, v in measurements(moments, True).items()}, "count": moments.count}
    )


def expected(samples: list[Any], norm: Any) -> dict[str, Any]:
    want = measure(
        stack([(x, norm(x, EPS), np.arange(len(x))) for x in samples]), EPS, affine(samples[0].shape[1])
    )
    del want["outliers"]["affine_outliers"]  # of the module, not of what it saw
    return want


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("massive", [False, True])
def test_every_number_is_the_references(kind: str, batch: int, left: bool, massive: bool) -> None:
    samples = corpus([3, 9, 1, 17, 5, 5, 12, 2, 9, 30], features=11, seed=7, massive=massive)
    got = read(accumulate(samples, NORMS[kind], batch, left=left))
    want = expected(samples, NORMS[kind])
    error, where = worst_error(got, want)
    assert error < 1e-12, where
    assert len(want["outliers"]["llm_int8"]["features"]) > 2
    assert want["outliers"]["massive"]["count"] == 2 * massive


@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=9),
    batch=st.integers(1, 9),
    left=st.booleans(),
    fill=st.sampled_from([0.0, 1e6, np.nan]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_batches_padding_and_order_change_nothing(
    lengths: list[int], batch: int, left: bool, fill: float, seed: int
) -> None:
    samples = corpus(lengths, features=5, seed=seed, massive=seed % 2 == 0)
    shuffled = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))]
    one = read(accumulate(samples, layer_norm, batch=len(samples)))
    other = read(accumulate(shuffled, layer_norm, batch, left=left, fill=fill))
    error, where = worst_error(other, as_arrays(one))
    assert error < 1e-10, where


def as_arrays(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: as_arrays(value) for key, value in plain.items()}
    return (
        [np.nan if v is None else v for v in plain]
        if isinstance(plain, list)
        else np.nan
        if plain is None
        else plain
    )


@given(cut=st.integers(0, 8), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_parts_merge_to_the_whole(cut: int, seed: int) -> None:
    samples = corpus([4, 1, 7, 2, 9, 3, 3, 6], features=4, seed=seed, massive=seed % 2 == 0)
    whole, merged = accumulate(samples, rms_norm, batch=3), Accumulator(4, EPS)
    for part in (samples[cut:], samples[:cut]):
        if part:
            merged.merge(accumulate(part, rms_norm, batch=2))
    error, where = worst_error(read(merged), as_arrays(read(whole)))
    assert error < 1e-10, where


def test_law_of_total_variance_at_each_position() -> None:
    """Var over samples and features = mean token variance + variance of token means, at every position."""
    moments = accumulate(corpus([9, 4, 6, 9, 2], features=6, seed=3), layer_norm, batch=2)
    between_tokens = moments.by_position.variance()[:, 0]
    total = moments.by_position.mean[:, 1] + between_tokens
    np.testing.assert_allclose(moments.table.pool(1).x.variance()[:, 0], total, rtol=1e-12)


def test_a_mean_of_1e8_beside_a_variance_of_1() -> None:
    samples = corpus([5, 9, 7, 3], features=6, seed=1, shift=1e8)
    got = read(accumulate(samples, layer_norm, batch=2))
    want = expected(samples, layer_norm)
    # Means near 1e8 are kept to 1.5e-8, and merging takes their differences, which are about 1.
    np.testing.assert_allclose(got["feature"]["variance"], want["feature"]["variance"], rtol=1e-7)
    np.testing.assert_allclose(got["position"]["variance"], want["position"]["variance"], rtol=1e-7)
    assert abs(got["agreement"]["feature"] - want["agreement"]["feature"]) < 1e-6


def test_bn_agrees_fully_with_itself() -> None:
    """Where y is what BatchNorm gives, agreement with `feature` and the affine fit are 1."""
    x = corpus([40], features=5, seed=2)[0]
    moments = accumulate([x], lambda rows, eps: (rows - x.mean(0)) / np.sqrt(x.var(0) + eps), batch=1)
    assert metrics.agreement(moments, "feature") == pytest.approx(1, abs=1e-12)
    assert metrics.affine_fit(moments.table.pool(0), moments.output) == pytest.approx(1, abs=1e-12)
    assert metrics.agreement(moments, "global") < 0.99


def test_position_explains_all_where_it_is_all_there_is() -> None:
    table = np.random.default_rng(0).normal(size=(6, 4))
    same = metrics.explained_by_position(accumulate([table] * 5, layer_norm, batch=2))
    assert (same.eta2, same.epsilon2) == pytest.approx((1, 1), abs=1e-12)
    noise = [np.random.default_rng(i).normal(size=(6, 4)) for i in range(200)]
    unrelated = metrics.explained_by_position(accumulate(noise, layer_norm, batch=64))
    assert abs(unrelated.epsilon2) < 0.01 < abs(unrelated.eta2) + 0.01


def test_a_single_token_leaves_what_needs_two_unknown() -> None:
    got = read(accumulate([np.array([[1.0, 2.0, 4.0]])], layer_norm, batch=1))
    assert got["explained"]["position"] == {"eta2": None, "epsilon2": None}
    assert got["first_position"]["rest_rms"] is None
    assert got["first_position"]["rms"] == pytest.approx(np.array([1.0, 2.0, 4.0]).std())
    assert got["agreement"]["instance"] is None


@pytest.mark.parametrize("place", [0, -1])
def test_an_outlier_at_either_end_of_a_text_costs_no_digits_in_float32(place: int) -> None:
    """[CLS] of BERT and the first token of GPT-2 are hundreds of standard deviations from all others."""
    generator = np.random.default_rng(3)
    samples = [0.3 * generator.normal(size=(100, 16)) for _ in range(20)]
    for sample in samples:
        sample[place] = 100 + 100 * generator.normal(size=16)
    samples = [sample.astype(np.float32).astype(np.float64) for sample in samples]
    running = Running(Accumulator(16, EPS))
    where = align((20, 100), None, -1, torch.device("cpu"))
    x = torch.from_numpy(np.concatenate(samples))
    running.update(Rows.of(x.float()), torch.from_numpy(layer_norm(x.numpy(), EPS)).float(), where)
    got, known = read(running.read()), expected(samples, layer_norm)
    for view, part, statistic in (("instance", "variance", "max"), ("instance", "mean", "min")):
        assert got[view][part][statistic] == pytest.approx(known[view][part][statistic], rel=5e-6)
    for name in ("eta2", "epsilon2"):
        assert got["explained"]["sequence"][name] == pytest.approx(
            known["explained"]["sequence"][name], rel=2e-5
        )
