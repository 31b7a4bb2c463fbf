"""Sums on their way into moments: the same whatever came before, and exact where a cell is constant."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import TokenMask, align
from normscope.statistics.batch_summary import CellSums
from normscope.statistics.buffers import Scratch
from normscope.statistics.moments import CoMoments, Labels, Rows
from normscope.statistics.pending_sums import PivotSums
from tests.support.running import Running

D = 3


def batch(seed: int, rows: int, shift: float = 0.0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, D, generator=generator, dtype=torch.float64) * 2 + shift
    return x, torch.tanh(x - shift) + torch.randn(rows, D, generator=generator, dtype=torch.float64)


def assert_moments(got: CoMoments, x: Any, y: Any, group: Any) -> None:
    """Two passes over all rows, cell by cell."""
    for cell in range(len(got.co)):
        own, other = x[group == cell], y[group == cell]
        assert got.x.count[cell].item() == len(own)
        if not len(own):
            assert not got.x.m2[cell].any()
            continue
        torch.testing.assert_close(got.x.mean[cell], own.mean(0), rtol=1e-12, atol=1e-12)
        m2, co = (own - own.mean(0)).square().sum(0), ((own - own.mean(0)) * other).sum(0)
        torch.testing.assert_close(got.x.m2[cell], m2, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got.mean_y[cell], other.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.co[cell], co, rtol=1e-10, atol=1e-10)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_cells_may_come_late_or_never(groups: list[list[int]]) -> None:
    sums, scratch = PivotSums(4, D), Scratch()
    parts = [(*batch(i, len(g), shift=1e3 * i), torch.tensor(g)) for i, g in enumerate(groups)]
    for x, y, group in parts:
        sums.add(CellSums.of(x, y, Labels.of(group), scratch))
    x, y, group = (torch.cat(values) for values in zip(*parts, strict=True))
    taken = sums.co_moments()
    assert len(taken.co) == int(group.max()) + 1
    # The means of the parts are a thousand deviations apart: errors are relative to that.
    scale = 1e3 * len(parts)
    taken.x.mean /= scale
    taken.x.m2 /= scale**2
    taken.co /= scale
    assert_moments(taken, x / scale, y, group)


def test_after_taking_it_begins_again() -> None:
    sums, scratch = PivotSums(4, D), Scratch()
    sums.add(CellSums.of(*batch(0, 6), Labels.of(torch.tensor([0, 1, 2, 0, 1, 2])), scratch))
    sums.clear()
    x, y = batch(1, 3, shift=50.0)
    sums.add(CellSums.of(x, y, Labels.of(torch.tensor([1, 1, 1])), scratch))
    taken = sums.co_moments()
    assert_moments(
        CoMoments(taken.x.take(torch.tensor([0, 1])), taken.mean_y[:2], taken.co[:2]), x, y, torch.ones(3)
    )


def test_a_constant_cell_has_no_variance_at_all() -> None:
    """A scale of 1 / sqrt(rounding) would make the same first token of all texts the loudest cell."""
    sums, scratch, labels = PivotSums(4, D), Scratch(), Labels.of(torch.zeros(5, dtype=torch.long))
    row = torch.tensor([0.1, 1234.567, -3e7])
    for _ in range(3):
        sums.add(CellSums.of(row.expand(5, D).contiguous(), torch.randn(5, D), labels, scratch))
    assert not sums.moments().m2.any()


def test_float32_numbers_do_not_depend_on_what_came_before() -> None:
    """So that parts of a corpus merge to the numbers of the whole, and not to float32's precision only."""
    mask = torch.ones(4, 5, dtype=torch.bool)
    where = align((4, 5), TokenMask(mask, mask), -1, torch.device("cpu"))
    parts = [tuple(values.float() for values in batch(seed, 20, shift=30.0 * seed)) for seed in range(4)]
    scratch = Scratch()

    def run(some: list[Any]) -> Accumulator:
        running = Running(Accumulator(D, 1e-5), scratch)
        for x, y in some:
            running.update(Rows.of(x, scratch), y, where, y.abs())
        return running.read()

    whole, merged = run(parts), run(parts[:1])
    merged.merge(run(parts[1:]))
    for name, values in whole.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], values, rtol=1e-11, atol=1e-11)


def test_reading_in_the_middle_changes_nothing() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    where = align((2, 3), TokenMask(mask, mask), -1, torch.device("cpu"))
    often, once = (Running(Accumulator(D, 1e-5)) for _ in range(2))
    for seed in range(5):
        x, y = batch(seed, 6)
        for running in (often, once):
            running.update(Rows.of(x), y, where)
        often.read()
    for name, values in once.read().state_dict().items():
        torch.testing.assert_close(often.read().state_dict()[name], values, rtol=1e-11, atol=1e-11)


def test_tokens_are_counted_on_from_what_was_seen() -> None:
    """By them it is chosen how the sums are made: the same after a checkpoint as without."""
    mask = torch.ones(2, 3, dtype=torch.bool)
    where = align((2, 3), TokenMask(mask, mask), -1, torch.device("cpu"))
    first = Running(Accumulator(D, 1e-5))
    for seed in range(2):
        first.update(Rows.of(batch(seed, 6)[0]), batch(seed, 6)[1], where)
    assert first.state.tokens() == 12
    on = Running(first.read())
    on.update(Rows.of(batch(3, 6)[0]), batch(3, 6)[1], where)
    assert on.state.tokens() == 18


def test_a_block_is_lent_again_in_any_size() -> None:
    scratch, like = Scratch(), torch.zeros(4, 2)
    first = scratch.block("a", like)
    assert scratch.block("a", like, 2).data_ptr() == first.data_ptr()
    assert scratch.block("b", like).data_ptr() != first.data_ptr()
    assert scratch.block("a", like.double()).dtype == torch.float64
    assert scratch.block("a", like, 9).shape == (9, 2)


def test_reading_a_state_changes_nothing_until_it_is_flushed() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    where = align((2, 3), TokenMask(mask, mask), -1, torch.device("cpu"))
    running = Running(Accumulator(D, 1e-5))
    x, y = batch(0, 6)
    running.update(Rows.of(x), y, where)
    state = running.state
    assert state.moments is not None
    assert (state.moments.count, state.moments.count, state.tokens()) == (0, 0, 6)
    state.flush()
    once = {name: values.clone() for name, values in state.state_dict().items()}
    state.flush()
    assert (state.moments.count, state.tokens()) == (6, 6)
    assert all(torch.equal(values, once[name]) for name, values in state.state_dict().items())
