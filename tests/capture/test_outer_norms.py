"""Modules that hold a norm and are called one: what they do besides is said, if it is anything."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import normscope
from tests.support.models import spread_norms

tf: Any = transformers


def autoformer() -> Any:
    from transformers.models.autoformer.modeling_autoformer import AutoformerLayernorm

    torch.manual_seed(0)
    norms = [AutoformerLayernorm(tf.AutoformerConfig(d_model=8)) for _ in range(2)]
    return spread_norms(nn.Sequential(*norms))


def watched(model: nn.Module, given: Tensor) -> tuple[str, ...]:
    with normscope.watch(model) as watcher:
        model(given)
    return watcher.report().warnings


def test_what_is_done_after_the_norm_within_is_said() -> None:
    """Autoformer's takes each feature's mean over time away from what its LayerNorm makes."""
    (warning,) = watched(autoformer(), torch.randn(2, 500, 8))
    assert warning == (
        "0 and 1 more like it: AutoformerLayernorm does more than the norm within it, which alone is measured"
    )


class ScaledNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gamma = (
            nn.LayerNorm(8, elementwise_affine=False),
            nn.Parameter(torch.full((8,), 1.01)),
        )

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) * self.gamma


class TurnedNorm(nn.Module):
    """Turns the axes around its norm, as PatchTST's does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class NormPerHead(nn.Module):
    """Has a norm for each head, as StableLM's does."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(4) for _ in range(2)])

    def forward(self, x: Tensor) -> Any:
        parts = torch.split(x, 4, dim=-1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=-1)


class RoundedNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x).bfloat16()


@pytest.mark.parametrize(
    ("kind", "more"), [(ScaledNorm, 1), (TurnedNorm, 0), (NormPerHead, 0), (RoundedNorm, 0)]
)
def test_only_other_numbers_are_more(kind: type[nn.Module], more: int) -> None:
    torch.manual_seed(0)
    warnings = watched(nn.Sequential(kind()), torch.randn(2, 500, 8))
    assert (
        warnings == (f"0: {kind.__name__} does more than the norm within it, which alone is measured",) * more
    )


def test_blocks_that_hold_norms_are_none() -> None:
    class PreNormBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Any:
            return self.linear(self.norm(x))

    assert watched(nn.Sequential(PreNormBlock()), torch.randn(2, 5, 8)) == ()
