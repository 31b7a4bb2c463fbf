"""What stands out: the thresholds at their edges, merge laws, and outliers that were planted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normscope
from normscope.results.inspect import LayerReport
from normscope.statistics import metrics
from normscope.statistics.alignment import TokenMask, align
from normscope.statistics.moments import Rows
from normscope.statistics.outliers import BatchOutliers, OutlierCounts, outlier_features
from tests.capture.test_watcher import padded, watched
from tests.support import models, reports

D = 4


def seen(x: Tensor, output: Tensor | None = None, real: Tensor | None = None) -> OutlierCounts:
    """Take in one batch (B, T, D), of which the `real` tokens count."""
    outliers = OutlierCounts(x.shape[2])
    mask = torch.ones(x.shape[:2], dtype=torch.bool) if real is None else real
    where = align(x.shape[:2], TokenMask(mask, mask), -1, x.device)
    rows = where.take(x.reshape(-1, x.shape[2]))
    sizes = None if output is None else where.take(output.reshape(-1, x.shape[2])).abs()
    outliers.add(BatchOutliers.of(Rows.of(rows), sizes, where))
    return outliers


def tables(outliers: OutlierCounts) -> list[Tensor]:
    counts = [outliers.large, outliers.largest, outliers.massive, outliers.massive_positions[:, 0]]
    return [*counts, outliers.massive_largest, torch.tensor(outliers.tokens)]


def assert_same(one: OutlierCounts, other: OutlierCounts) -> None:
    for a, b in zip(tables(one), tables(other), strict=True):
        size = max(a.numel(), b.numel())  # positions that hold nothing may be missing at the end
        torch.testing.assert_close(_wide(a, size), _wide(b, size), rtol=0, atol=0, check_dtype=False)


def _wide(values: Tensor, size: int) -> Tensor:
    return torch.cat([values.reshape(-1), values.new_zeros(size - values.numel())])


def only(report: normscope.Report) -> LayerReport:
    (layer,) = report.layers.values()
    return layer


# Thresholds


def test_six_is_large_and_less_is_not() -> None:
    below = float(np.nextafter(np.float32(6), np.float32(0)))
    output = torch.tensor([[[6.0, below, -6.0, 0.0], [7.0, -below, 5.0, -9.0]]])
    outliers = seen(torch.zeros(1, 2, D), output)
    assert outliers.large.tolist() == [2, 0, 1, 1]
    assert outliers.largest.tolist() == [7, below, 6, 9]
    assert metrics.large_features(outliers).tolist() == [0, 2, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_counts_are_exact_whatever_the_dtype(dtype: torch.dtype) -> None:
    outliers = seen(torch.zeros(1, 1000, D), torch.full((1, 1000, D), -6.5, dtype=dtype))
    assert outliers.large.tolist() == [1000] * D


def test_six_percent_of_the_tokens_is_enough() -> None:
    output = torch.zeros(1, 100, D)
    output[0, :6, 1], output[0, :5, 2] = 8.0, 8.0
    assert metrics.large_features(seen(torch.zeros(1, 100, D), output)).tolist() == [1]


def test_a_nan_among_outputs_hides_no_other() -> None:
    output = torch.tensor([[[float("nan"), 1.0], [8.0, 2.0]]])
    outliers = seen(torch.zeros(1, 2, 2), output)
    assert outliers.large.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("value", "others", "count"),
    [
        (100.0, 0.01, 0),  # not over 100
        (100.5, 0.1005, 1),  # just 1000 medians
        (100.5, 0.1006, 0),
        (-5000.0, 1.0, 1),
        (5000.0, 0.0, 1),  # most elements are 0, as after a ReLU
        (90.0, 0.0, 0),
    ],
)
def test_massive_is_over_100_and_1000_medians(value: float, others: float, count: int) -> None:
    x = torch.full((1, 5, D), others, dtype=torch.float64)
    x[0, 3, 2] = value
    outliers = seen(x)
    assert outliers.massive.sum() == count
    assert outliers.massive_largest == count * abs(value)
    assert metrics.largest(outliers.massive, 9).tolist() == [2] * count
    assert metrics.largest(outliers.massive_positions[:, 0], 9).tolist() == [3] * count


def test_the_median_of_an_even_number_is_the_middle_of_two() -> None:
    x = torch.tensor([[[0.0, 0.0, 0.3, 150.0]]], dtype=torch.float64)
    assert seen(x).massive.tolist() == [0, 0, 0, 1]  # the median is 0.15
    x[0, 0, 2] = 0.31
    assert seen(x).massive.sum() == 0


def test_each_sample_has_a_median_of_its_own_without_its_padding() -> None:
    x = torch.full((2, 3, D), 0.1)
    x[0, 0, 1] = x[1, 0, 1] = 500.0
    x[1, 0, 2:], x[1, 1] = 2.0, 2.0
    real = torch.tensor([[True, True, True], [True, True, False]])
    x[1, 2] = 0.0001  # padding, which would bring the median down
    assert seen(x, real=real).massive.tolist() == [0, 1, 0, 0]


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    size=st.sampled_from([50.0, 150.0, 4000.0]),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.01, 0.1, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_massive_elements_are_those_of_the_definition(
    lengths: list[int], size: float, seed: int, spread: float
) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(len(lengths), max(lengths), D)) * spread
    x[generator.random(x.shape) < 0.1] = size
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    want = np.zeros(D)
    for sample, mask in zip(x, real, strict=True):
        sizes = np.abs(sample[mask])
        want += ((sizes > 100) & (sizes >= 1000 * np.median(sizes))).sum(0)
    assert seen(torch.from_numpy(x), real=torch.from_numpy(real)).massive.tolist() == want.tolist()


# Merging


@given(cut=st.integers(0, 7), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_parts_merge_to_the_whole_in_any_order(cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(7, 5, D, generator=generator) * 0.05
    x[torch.rand(x.shape, generator=generator) < 0.05] = 300.0
    output = torch.randn(7, 5, D, generator=generator) * 4
    parts = [seen(x[part], output[part]) for part in (slice(cut), slice(cut, None)) if len(x[part])]
    for order in (parts, parts[::-1]):
        merged = OutlierCounts(D)
        for part in order:
            merged.merge(part)
        assert_same(merged, seen(x, output))


def test_an_empty_part_changes_nothing() -> None:
    x = torch.randn(2, 3, D)
    x[1, 2, 0] = 1e6
    one = seen(x, 5 * x)
    one.merge(OutlierCounts(D))
    assert_same(one, seen(x, 5 * x))


# A layer's own affine


def test_affine_outliers_are_over_three_biased_deviations() -> None:
    values = torch.ones(11)
    values[4] = 3.0  # at sqrt(10) biased deviations, and just over 3 of the unbiased
    assert metrics.affine_outliers(values).tolist() == [4]
    values = torch.ones(10)
    values[4] = -30.0  # at 3 deviations, whatever its size
    assert metrics.affine_outliers(values).tolist() == []
    assert metrics.affine_outliers(torch.full((5,), 0.1)).tolist() == []


@pytest.mark.parametrize(
    ("module", "parts"),
    [
        (nn.LayerNorm(20), ([], [])),
        (nn.LayerNorm(20, bias=False), ([], None)),
        (nn.LayerNorm(20, elementwise_affine=False), None),
        (nn.LayerNorm(1), None),
    ],
)
def test_a_layer_without_an_affine_has_no_affine_outliers(module: Any, parts: Any) -> None:
    with normscope.watch(module) as watcher, torch.no_grad():
        module(torch.randn(2, 3, module.normalized_shape[0]))
    outliers = only(watcher.report()).outliers
    assert outliers is not None
    affine = outliers.affine_outliers
    if parts is None:
        assert affine is None
    else:
        assert affine is not None
        found = [None if each is None else each.tolist() for each in (affine.weight, affine.bias)]
        assert found == list(parts)


# Planted facts


def test_a_feature_blown_up_by_100_stands_out_in_its_layer_alone() -> None:
    model = models.bert()
    name, feature = "bert.encoder.layer.0.output.LayerNorm", 9
    before = watched(model, padded("right")).layers[name].outliers
    with torch.no_grad():
        for vector in (model.get_submodule(name).weight, model.get_submodule(name).bias):
            vector[feature] = 100.0
    report = watched(model, padded("right"))
    after = report.layers[name].outliers
    assert before is not None and after is not None  # noqa: PT018
    assert before.llm_int8 is not None and after.llm_int8 is not None  # noqa: PT018
    assert after.affine_outliers is not None
    assert feature not in before.llm_int8.features
    assert after.llm_int8.features.tolist() == [*sorted({*before.llm_int8.features.tolist(), feature})]
    assert after.llm_int8.largest.max() > 100
    for found in (after.affine_outliers.weight, after.affine_outliers.bias):
        assert found is not None and found.tolist() == [feature]  # noqa: PT018
    # The next layer adds it to what the block gives: there it rules the input.
    following = report.layers["bert.encoder.layer.1.attention.output.LayerNorm"].outliers
    assert following is not None
    assert following.sd_ratio > 30
    assert before.sd_ratio < 3


def test_a_feature_scaled_in_every_layer_recurs() -> None:
    model, feature = models.llama(num_hidden_layers=4), 5
    with torch.no_grad():
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.weight.fill_(0.5)
                module.weight[feature] = 100.0
    report = watched(model, padded("left"))
    (found,) = report.outlier_features
    assert (found.feature, found.width, found.share) == (feature, 32, 1.0)
    assert found.layers == tuple(report.layers)
    assert normscope.Report.from_dict(report.to_dict()) == report


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_massive_activation_at_one_position_is_found_there(side: str) -> None:
    model, batch = models.gpt2(), padded(side)
    with torch.no_grad():
        model.transformer.wpe.weight[2, 17] = 50_000.0
    outliers = watched(model, batch).layers["transformer.h.0.ln_1"].outliers
    assert outliers is not None
    # Of four texts, three have a third token.
    assert (outliers.massive.count, outliers.massive.features.tolist()) == (3, [17])
    assert outliers.massive.positions.tolist() == [2]
    assert outliers.massive.largest == pytest.approx(50_000, rel=1e-3)


def test_each_heads_affine_is_in_its_output() -> None:
    class HeadNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(3, 6)), 1e-6
            self.weight.data[1, 4] = 50.0

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.rms_norm(x, (6,), eps=self.eps) * self.weight

    module = HeadNorm()
    x = torch.randn(4, 5, 3, 6, generator=torch.Generator().manual_seed(0))
    with normscope.watch(module) as watcher, torch.no_grad():
        output = module(x)
    layer = only(watcher.report())
    assert layer.outliers is not None
    assert layer.outliers.llm_int8 is not None
    assert layer.outliers.affine_outliers is None
    share = (output.reshape(-1, 6).abs() >= 6).double().mean(0)
    assert layer.outliers.llm_int8.features.tolist() == [4]
    assert layer.outliers.llm_int8.share[0] == pytest.approx(float(share[4]))


def test_a_layer_of_no_known_output_still_has_its_input() -> None:
    class SecretNorm(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "no tensor"

    module = SecretNorm()
    with normscope.watch(module) as watcher:
        module(torch.randn(2, 3, 6))
    outliers = only(watcher.report()).outliers
    assert outliers is not None
    assert outliers.llm_int8 is None
    assert outliers.sd_ratio > 1


def test_known_outliers_of_minilm() -> None:
    model, tokenizer = models.demo()
    report = normscope.inspect(model, models.prose(60), tokenizer=tokenizer)
    assert 223 in [each.feature for each in report.outlier_features]
    last = report.layers["encoder.layer.5.output.LayerNorm"]
    assert last.feature is not None
    assert last.outliers is not None
    assert set(np.argsort(-last.feature.variance)[:3]) == {127, 223, 319}
    deviation = np.sqrt(last.feature.variance)
    assert last.outliers.sd_ratio == pytest.approx(deviation.max() / np.median(deviation))
    assert last.outliers.sd_ratio > 20


# Recurring features


def large_in(*features: int) -> Any:
    stem = reports.standing_out(0)
    assert stem.llm_int8 is not None
    count = len(features)
    return replace(
        stem,
        llm_int8=replace(
            stem.llm_int8, features=np.array(features, int), share=np.ones(count), largest=np.ones(count)
        ),
    )


def test_recurring_is_in_a_quarter_of_the_layers_as_wide() -> None:
    found = [[1, 2], [1], [2], [2], [], [], [], [], [3]]
    layers = [reports.layer(f"n{i}", i, outliers=large_in(*found[i])) for i in range(9)]
    layers += [reports.layer(f"m{i}", i, features=8, outliers=large_in(1)) for i in range(2)]
    layers += [reports.layer("alone", features=6, outliers=large_in(1)), reports.uncalled("spare")]
    features = [(each.feature, each.width, each.layers) for each in outlier_features(layers)]
    assert features == [(2, 48, ("n0", "n2", "n3")), (1, 8, ("m0", "m1"))]
    assert outlier_features(layers)[0].share == pytest.approx(3 / 9)
