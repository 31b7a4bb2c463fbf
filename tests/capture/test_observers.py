"""Observers: they get the rows of every batch that count, and no number of the layer depends on them."""

import torch
from torch import nn

import normscope
from normscope.capture.observers import BatchRows, Observer, RowScales
from normscope.capture.recorder import Recorder
from normscope.statistics.layer_state import LayerState
from tests.support.reports_alike import furthest


class RowKeeper:
    """Keeps the rows of all batches, and the tokens that the layer had by then."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.tokens: list[int] = []

    def observe(self, batch: BatchRows, state: LayerState, /) -> None:
        self.rows.append(batch.rows.x.clone())
        self.tokens.append(state.tokens())


class Model(nn.Module):
    """A layer whose tokens have a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(5).double()

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.norm(x)  # type: ignore[no-any-return]


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    return [(torch.randn(2, 4, 5, dtype=torch.float64) * (1 + i), mask) for i in range(3)]


def watched(*observers: Observer) -> normscope.Report:
    model = Model()
    recorder = Recorder(model)
    (capture,) = recorder.captures
    capture.observers += observers
    with recorder:
        for x, mask in batches():
            model(x, attention_mask=mask)
    assert (capture.state.scales is not None) == any(isinstance(one, RowScales) for one in observers)
    return recorder.report()


def test_they_get_the_rows_that_count_after_the_state_has_them() -> None:
    keeper = RowKeeper()
    watched(keeper)
    assert keeper.tokens == [7, 14, 21]
    for rows, (x, mask) in zip(keeper.rows, batches(), strict=True):
        torch.testing.assert_close(rows, x[mask.bool()], rtol=0, atol=0)


def test_no_number_of_the_report_depends_on_them() -> None:
    assert furthest(watched().to_dict(), watched(RowKeeper(), RowScales()).to_dict(), ("seconds",)) == 0


def test_row_scales_are_those_of_the_formula() -> None:
    model = Model()
    recorder = Recorder(model)
    (capture,) = recorder.captures
    capture.observers.append(RowScales())
    with recorder:
        for x, mask in batches():
            model(x, attention_mask=mask)
    rows = torch.cat([x[mask.bool()] for x, mask in batches()])
    first = torch.cat([torch.arange(4).expand(2, 4)[mask.bool()] == 0 for _, mask in batches()])
    scales = (rows.var(1, unbiased=False) + model.norm.eps).rsqrt()
    assert capture.state.scales is not None
    expected = torch.stack([scales[first].mean(), scales[~first].mean()])
    torch.testing.assert_close(capture.state.scales.mean[:, 0], expected, rtol=1e-12, atol=0)
    assert capture.state.scales.count[:, 0].tolist() == [int(first.sum()), int((~first).sum())]
