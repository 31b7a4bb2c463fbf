"""What people write by hand, and with other tools, for the statistics of normalization layers.

`Sums` is the script that this package replaces: hooks that add up float64 sums of padded batches, for
the tables of a report. The others only bring each layer's input, by what they were made for; its mean
and variance per feature are taken from what they kept.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Sums:
    """One layer's float64 sums over padded batches: by position and feature, by token, by text."""

    def __init__(self, module: nn.LayerNorm, longest: int) -> None:
        self.module, features = module, module.normalized_shape[0]
        self.count = torch.zeros(longest, 1, dtype=torch.float64)
        self.x, self.square, self.y, self.product = (
            torch.zeros(longest, features, dtype=torch.float64) for _ in range(4)
        )
        self.y_square = torch.zeros(features, dtype=torch.float64)
        self.token_mean, self.token_variance = (torch.zeros(longest, dtype=torch.float64) for _ in range(2))
        self.text_variance = self.instance_variance = self.texts = 0.0
        self.error = self.largest = 0.0

    def add(self, x: Tensor, output: Tensor, mask: Tensor) -> None:
        """Add a batch (B, T, D) of which the tokens of `mask` (B, T) count."""
        x, output, m = x.double(), output.double(), mask.double()[:, :, None]
        mean, variance = x.mean(2, keepdim=True), x.var(2, correction=0, keepdim=True)
        y = (x - mean) / (variance + self.module.eps).sqrt()
        length = x.shape[1]
        self.count[:length] += m.sum(0)
        for table, values in ((self.x, x), (self.square, x * x), (self.y, y), (self.product, x * y)):
            table[:length] += (values * m).sum(0)
        self.y_square += (y * y * m).sum((0, 1))
        self.token_mean[:length] += (mean * m).sum((0, 2))
        self.token_variance[:length] += (variance * m).sum((0, 2))
        tokens = m.sum(1)
        by_text = (x * m).sum(1) / tokens
        instance = ((x - by_text[:, None]).square() * m).sum(1) / tokens
        self.instance_variance += float(instance.mean(1).sum())
        self.text_variance += float((instance.mean(1) + by_text.var(1, correction=0)).sum())
        self.texts += len(x)
        expected = y * self.module.weight.double() + self.module.bias.double()
        self.error = max(self.error, float(((expected - output).abs() * m).max()))
        self.largest = max(self.largest, float((output.abs() * m).max()))

    def by_feature(self) -> tuple[Tensor, Tensor]:
        """Return BatchNorm's mean and variance per feature, (D,)."""
        count = self.count.sum()
        mean = self.x.sum(0) / count
        return mean, self.square.sum(0) / count - mean.square()


def summed(model: nn.Module, batches: Iterable[dict[str, Any]], longest: int) -> dict[str, Sums]:
    """Run padded batches with a hook on every LayerNorm."""
    sums = {name: Sums(module, longest) for name, module in norms(model).items()}
    mask: Tensor = torch.empty(0)

    def hook(kept: Sums) -> Callable[..., None]:
        return lambda _, args, output: kept.add(args[0], output, mask)

    handles = [norms(model)[name].register_forward_hook(hook(kept)) for name, kept in sums.items()]
    for batch in batches:
        mask = batch["attention_mask"]
        model(**batch)
    for handle in handles:
        handle.remove()
    return sums


def norms(model: nn.Module) -> dict[str, nn.LayerNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}


def kept_by_hooks(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    """Keep what enters each layer, as baukit's TraceDict does, with its retain_input."""
    kept: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _, args, __: kept.append(args[0].detach()))
        for module in norms(model).values()
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    return kept


def kept_by_captum(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    """Keep it by captum's LayerActivation."""
    from captum.attr import LayerActivation

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        answer: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return answer

    layers = LayerActivation(forward, list(norms(model).values()))
    kept: list[Tensor] = layers.attribute(
        batch["input_ids"],
        additional_forward_args=batch["attention_mask"],
        attribute_to_layer_input=True,
    )
    return kept


def kept_by_nnsight(model: nn.Module) -> Callable[[nn.Module, dict[str, Any]], list[Tensor]]:
    """Keep it by nnsight's trace."""
    import nnsight

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BERT has modules that are called "output"
        traced = nnsight.NNsight(model)
    places = [_place(traced, name) for name in norms(model)]

    def keep(_: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
        with traced.trace(**batch):
            kept = nnsight.save([place.input for place in places])
        return list(kept)

    return keep


def _place(traced: Any, name: str) -> Any:
    at = traced
    for part in name.split("."):
        at = at[int(part)] if part.isdigit() else getattr(at, "E_output" if part == "output" else part)
    return at


def reduced(kept: Sequence[Tensor], mask: Tensor, into: list[list[Tensor]]) -> None:
    """Add each layer's count, sum and sum of squares per feature, in float64, of the tokens that count."""
    for (count, total, square), x in zip(into, kept, strict=True):
        rows = x[mask != 0].double()
        count.add_(len(rows))
        total.add_(rows.sum(0))
        square.add_((rows * rows).sum(0))
