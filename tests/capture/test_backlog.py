"""What waits to be read: many small batches take no more memory than few, and give the same numbers."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

import normscope
from normscope.statistics.buffers import FEW, FULL_BYTES, OVERHEAD, Backlog
from normscope.statistics.layer_state import LayerState
from tests.support import running
from tests.support.reference import layer_norm, measure, stack, worst_error


def bytes_of_new_tensors() -> int:
    """All tensors that are alive and were made since `gc.freeze`, with what each takes beside its numbers."""
    return sum(one.nbytes + OVERHEAD for one in gc.get_objects() if type(one) is torch.Tensor)


@contextmanager
def counting() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def test_many_small_forwards_hold_no_more_than_few() -> None:
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.RMSNorm(16))
    rows = torch.randn(1, 1, 16)

    def most_held(forwards: int) -> int:
        held = []
        for _ in range(forwards):
            model(rows)
            held.append(bytes_of_new_tensors())
        return max(held)

    with torch.no_grad(), counting(), normscope.watch(model):
        at_first = most_held(140)
        for _ in range(300):
            model(rows)
        assert most_held(140) <= 1.1 * at_first


def test_small_batches_give_the_numbers_of_two_passes() -> None:
    torch.manual_seed(0)
    model = nn.LayerNorm(6).double()
    samples = []
    watcher = normscope.watch(model)
    with torch.no_grad(), watcher:
        for number in range(240):
            x = torch.randn(1, 1 + number % 4, 6, dtype=torch.float64) * (1 + number % 3) + number % 5
            model(x)
            rows = x[0].numpy()
            samples.append((rows, layer_norm(rows, 1e-5), np.arange(len(rows))))
    got = watcher.report().to_dict()["layers"][0]
    error, where = worst_error(got, measure(stack(samples), 1e-5))
    assert error < 1e-10, where


def test_a_backlog_is_full_by_bytes_and_never_by_few_batches() -> None:
    backlog, large = Backlog(), torch.zeros(FULL_BYTES // 4)
    for number in range(1, FEW + 1):
        assert not backlog.is_full
        backlog.add(large, torch.full((1,), number))
    assert backlog.is_full
    first, second = backlog.take()
    assert len(first) == FEW
    assert [int(one) for one in second] == [*range(1, FEW + 1)]
    assert not backlog
    assert not backlog.is_full


def test_gaps_of_small_batches_are_bounded() -> None:
    state, sizes = LayerState(), []
    for _ in range(2 * FULL_BYTES // OVERHEAD):
        running.add_errors(state, torch.zeros(1, 2), torch.zeros(1, 2))
        sizes.append(state.output_size)
    first, second = sorted({*sizes})[1:3]
    assert second == 2 * first <= 2 * FULL_BYTES // OVERHEAD
