"""Tables over positions within bounds: which bins there are, what is in them, and what they take."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import normscope
from normscope.capture.recorder import Recorder
from normscope.errors import UsageError
from normscope.statistics.position_bins import MEMORY, UNLIMITED, Bins, plan_tables
from tests.support import models
from tests.support.reference import layer_norm, measure, stack, worst_error

# Five LayerNorms of 32 features, 64 positions: twelve rows are four positions on their own, and four octaves.
TWELVE_ROWS = 12 * (5 * (72 * 32 + 1616) + 72 * 32)
LENGTHS = [64, 37, 5, 50, 64, 1, 12]


def plain_bins(exact: int, positions: int) -> list[list[int]]:
    """The bins one after the other, as one would write them by hand."""
    bins = [[t] for t in range(exact)]
    start, width = exact, 2
    while start < positions:
        bins += [list(range(s, s + width)) for s in range(start, 2 * start, width)]
        start, width = 2 * start, 2 * width
    return [kept for members in bins if (kept := [t for t in members if t < positions])]


@given(exact=st.integers(1, 40).map(lambda half: 2 * half), positions=st.integers(1, 3000))
def test_bins_are_those_one_would_write_down(exact: int, positions: int) -> None:
    bins, plain = Bins(exact), plain_bins(exact, positions)
    expected = [number for number, members in enumerate(plain) for _ in members]
    assert bins.of(torch.arange(positions)).tolist() == expected
    assert bins.rows(positions) == len(plain)
    assert bins.first(len(plain)) == [members[0] for members in plain]


def test_llama_7b_at_2048_positions_fits_one_gib() -> None:
    plan = plan_tables([4096] * 65, 2048, MEMORY)
    assert plan.bins is not None
    assert plan.bins.exact == 10
    assert plan.rows == len(plain_bins(10, 2048))
    assert plan.bytes == plan.rows * (65 * (72 * 4096 + 1616) + 72 * 4096) <= MEMORY
    assert plan.exact_bytes > 36 * MEMORY
    assert len(plain_bins(12, 2048)) * plan.bytes / plan.rows > MEMORY  # More would not fit.


def test_what_fits_has_no_bins() -> None:
    plan = plan_tables([384] * 13, 512)
    assert plan.bins is None
    assert (plan.rows, plan.bytes) == (512, plan.exact_bytes)


def test_a_byte_decides() -> None:
    plan = plan_tables([32] * 5, 64)
    assert plan_tables([32] * 5, 64, plan.bytes).bins is None
    less = plan_tables([32] * 5, 64, plan.bytes - 1)
    assert less.bins is not None
    assert (less.exact_bytes, less.bytes < less.exact_bytes) == (plan.bytes, True)


def test_without_a_limit_there_are_bins_for_any_text() -> None:
    plan = plan_tables([64] * 5, None, 1 << 24)
    assert plan.bins is not None
    assert plan.positions is None
    assert plan.bins.rows(UNLIMITED) == plan.rows
    assert plan.bytes <= 1 << 24


def test_too_little_memory_says_how_much_is_enough() -> None:
    with pytest.raises(
        UsageError, match=r"1,000 bytes; expected at least 153,328, for the tables of all layers"
    ):
        plan_tables([32] * 5, 64, 1000)
    assert plan_tables([32] * 5, 64, 153_328).bins == Bins(2)


@pytest.fixture(scope="module")
def model() -> Any:
    return models.gpt2().double()  # So that parts and the whole are the same however they are summed.


def batches(lengths: list[int], seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(5, 100, (1, n), generator=generator)} for n in lengths]


def watched(model: Any, given: list[dict[str, Tensor]], memory: int = TWELVE_ROWS) -> Recorder:
    with Recorder(model, table_memory=memory) as recorder, torch.no_grad():
        for inputs in given:
            model(**inputs)
    return recorder


def test_binned_views_are_those_of_the_reference(model: Any) -> None:
    given, name = batches(LENGTHS), "transformer.h.1.ln_2"
    report = watched(model, given).report()
    inputs: list[Any] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: inputs.append(args[0][0].double().numpy())
    )
    with torch.no_grad():
        for batch in given:
            model(**batch)
    handle.remove()
    place = {t: number for number, members in enumerate(plain_bins(4, 64)) for t in members}
    numbers = [np.array([place[t] for t in range(len(x))]) for x in inputs]
    want = measure(stack([(x, layer_norm(x, 1e-5), n) for x, n in zip(inputs, numbers, strict=True)]), 1e-5)
    layer = report.layers[name]
    got = report.to_dict()["layers"][layer.index]
    assert layer.position is not None
    assert layer.position.first is not None
    assert layer.position.first.tolist() == [members[0] for members in plain_bins(4, 64)]
    assert layer.position.count.tolist() == [sum((n == i).sum() for n in numbers) for i in range(12)]
    error, where = worst_error(got, want)
    assert error < 1e-5, where
    assert report.run.position_bins == tuple(layer.position.numbers.tolist())
    assert any("positions from 4 on share bins" in warning for warning in report.warnings)
    assert report.run.positions == 64


def test_parts_with_bins_merge_to_the_whole(model: Any) -> None:
    given = batches(LENGTHS)
    whole = watched(model, given).report(moments=True)
    parts = [watched(model, part).report(moments=True) for part in (given[:2], given[2:3], given[3:])]
    merged = normscope.merge(parts)
    assert merged.run.position_bins == whole.run.position_bins is not None
    for one, other in zip(merged.layers.values(), whole.layers.values(), strict=True):
        assert one.position is not None
        assert other.position is not None
        assert one.position.first.tolist() == other.position.first.tolist()  # type: ignore[union-attr]
        assert one.position.variance == pytest.approx(other.position.variance, rel=1e-9)
    assert [w for w in merged.warnings if "share bins" in w] == [w for w in whole.warnings if "share" in w]


def test_parts_with_other_bins_are_refused(model: Any) -> None:
    parts = [watched(model, batches([64]), memory).report(moments=True) for memory in (TWELVE_ROWS, MEMORY)]
    with pytest.raises(UsageError, match=r"part 2 has positions that stand alone at '.*' none; expected '4'"):
        normscope.merge(parts)


def test_tables_take_what_was_planned(model: Any) -> None:
    recorder = watched(model, batches(LENGTHS))
    plan = recorder.tables
    taken = 0
    for capture in recorder.captures:
        capture.state.flush()
        assert capture.state.moments is not None
        assert capture.state._pending is not None
        moments, sums = capture.state.moments, capture.state._pending._table
        held = [moments.table.x.count, moments.table.x.mean, moments.table.x.m2, moments.table.mean_y]
        held += [moments.table.co, *vars(moments.by_position).values(), sums._pivot, sums._count, sums._sums]
        held += [*vars(moments.variances).values()]
        taken += sum(values.untyped_storage().nbytes() for values in held)
    massive = 12 * 5 * 8  # A number a position, where there are any massive elements.
    assert taken + massive == plan.bytes - plan.rows * 72 * 32
    assert plan.bytes <= TWELVE_ROWS


def test_an_early_text_makes_no_bins_of_a_report(model: Any) -> None:
    report = watched(model, batches([4, 3])).report()
    assert report.run.position_bins is None
    assert all(layer.position and layer.position.first is None for layer in report.layers.values())
    assert not report.warnings


def test_massive_elements_are_named_by_the_first_position_of_their_bin(model: Any) -> None:
    class Loud(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)

        def forward(self, input_ids: Tensor) -> Any:
            x = torch.randn(*input_ids.shape, 8) * 0.01
            x[:, 21, 3] = 1e4
            return self.norm(x)

    report = watched(Loud(), batches([40]), 30 * (2 * 72 * 8 + 1616))
    layer = report.report().layers["norm"]
    assert layer.outliers is not None
    assert layer.position is not None
    (place,) = layer.outliers.massive.positions
    assert place in layer.position.numbers
    assert place <= 21 < min(n for n in layer.position.numbers if n > place)


def test_tokens_that_are_kept_keep_their_own_positions() -> None:
    from normscope.statistics.alignment import TokenMask, align

    mask = torch.ones(2, 9, dtype=torch.bool)
    where = align((2, 9), TokenMask(mask, mask, bins=Bins(2)), -1, mask.device)
    assert where.positions.tolist() == [*range(9), *range(9)]
    assert where.position.group.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4] * 2
    late = where.keep(where.positions > 6)
    assert late.positions.tolist() == [7, 8, 7, 8]
    assert late.position.group.tolist() == [3, 4, 3, 4]
