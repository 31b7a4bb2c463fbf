"""The same model with its axes in another order has the same numbers: statistics do not know of layouts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.results.inspect import LayerReport

B, T, H, D = 3, 7, 2, 8
LENGTHS = torch.tensor([7, 2, 5])
MASK = (torch.arange(T) < LENGTHS[:, None]).long()

Bring = Callable[[Tensor], Tensor]
WHOLE: dict[str, Bring] = {
    "(B, T, D)": lambda x: x,
    "(T, B, D)": lambda x: x.transpose(0, 1),
    "(B*T, D)": lambda x: x.reshape(-1, D),
}
PER_HEAD: dict[str, Bring] = {
    "(B, T, H, D)": lambda x: x.reshape(B, T, H, D // H),
    "(B, H, T, D)": lambda x: x.reshape(B, T, H, D // H).transpose(1, 2),
    "(B*H, T, D)": lambda x: x.reshape(B, T, H, D // H).transpose(1, 2).reshape(B * H, T, D // H),
    "(B*T, H, D)": lambda x: x.reshape(B * T, H, D // H),
    "(B*T*H, D)": lambda x: x.reshape(-1, D // H),
}


class Arranged(nn.Module):
    """An embedding, brought into a layout, and a norm."""

    def __init__(self, bring: Bring, features: int, norm: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self._bring = nn.Embedding(50, D), norm(features), bring
        with torch.no_grad():
            self.embed.weight[:, 3] += 5.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.norm(self._bring(self.embed(input_ids)))


def measured(bring: Bring, features: int, norm: type[nn.Module], mask: Tensor) -> LayerReport:
    model = Arranged(bring, features, norm)
    ids = torch.randint(0, 50, (B, T), generator=torch.Generator().manual_seed(1))
    with normscope.watch(model) as watcher, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    assert watcher.report().warnings == ()
    return watcher.report().layers["norm"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("layout", [*WHOLE, *PER_HEAD])
def test_every_layout_gives_the_same_numbers(layout: str, norm: type[nn.Module], side: str) -> None:
    layouts, features, plain = (
        (WHOLE, D, "(B, T, D)") if layout in WHOLE else (PER_HEAD, D // H, "(B, T, H, D)")
    )
    mask = MASK if side == "right" else MASK.flip(1)
    layer = measured(layouts[layout], features, norm, mask)
    known = measured(layouts[plain], features, norm, mask)
    assert layer.layout == layout
    assert layer.count == int(LENGTHS.sum()) * (1 if layout in WHOLE else H)
    assert layer.position is not None
    assert_close(layer, replace(known, layout=layout))


def assert_close(layer: LayerReport, known: LayerReport) -> None:
    """Fail unless all numbers are the same but for the order in which they were added up."""
    ours, theirs = (dict(numbers(found.__dict__)) for found in (layer, known))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        known_value = theirs[name]
        if not isinstance(value, str | None):
            known_value = pytest.approx(known_value, rel=1e-6, abs=1e-9, nan_ok=True)
        assert value == known_value, name


def numbers(members: Any, where: str = "") -> Any:
    """Give every member of a report that is a number, an array or a word, with its path."""
    for name, value in members.items():
        if hasattr(value, "__dict__"):
            yield from numbers(value.__dict__, f"{where}{name}.")
        elif isinstance(value, dict):
            yield from numbers(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value
