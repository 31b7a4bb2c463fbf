"""Small networks that the examples train, each with a norm of choice, and the moments at their norms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from _data import LONGEST, PADDING, WORDS, Samples
from normscope.statistics.moments import Moments

NORMS = ("none", "batch", "batch, masked", "batch rms, masked", "layer", "rms")


class BatchRMSNorm(nn.Module):
    """x / rms of each feature over the batch, no mean taken off: PowerNorm's simplest form (PN-V)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.power: Tensor
        self.register_buffer("power", torch.ones(features))

    def forward(self, rows: Tensor) -> Tensor:
        """Scale (N, D) by the batch's own power in training, by the running one afterwards."""
        power = self.power
        if self.training:
            power = rows.square().mean(0)
            self.power.lerp_(power.detach(), 0.1)
        return rows / (power + 1e-5).sqrt() * self.weight + self.bias


KINDS: dict[str, Any] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
MASKED: dict[str, Any] = {"batch, masked": nn.BatchNorm1d, "batch rms, masked": BatchRMSNorm}


class Normalize(nn.Module):
    """One of NORMS. "batch" is PyTorch's on a padded batch: padding counts; "masked" leaves it out."""

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm: nn.Module = {**KINDS, **MASKED, "none": nn.Identity}[kind](features)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalize texts (B, T, D) with the mask (B, T) of their words, or (B, D) without a mask."""
        made: Tensor
        if mask is None or self.kind in ("none", "layer", "rms"):
            made = self.norm(x)
        elif self.kind == "batch":
            made = self.norm(x.transpose(1, 2)).transpose(1, 2)
        else:
            made = torch.zeros_like(x).masked_scatter(mask[..., None], self.norm(x[mask]))
        return made


class MLP(nn.Module):
    """Three hidden layers on 8 x 8 pixels, a norm after each."""

    def __init__(self, kind: str, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, width) for _ in range(3)])
        self.norms = nn.ModuleList([Normalize(kind, width) for _ in self.layers])
        self.last = nn.Linear(width, 10)

    def forward(self, inputs: Tensor, attention_mask: None) -> Tensor:
        """Return the scores of the ten digits (B, 10)."""
        x = inputs.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x), attention_mask).relu()
        scores: Tensor = self.last(x)
        return scores


class CNN(nn.Module):
    """Four convolutions on 8 x 8 pixels, a BatchNorm after each."""

    def __init__(self) -> None:
        super().__init__()
        steps = ((1, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1))
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in steps])
        self.norms = nn.ModuleList([nn.BatchNorm2d(features) for _, features, _ in steps])
        self.last = nn.Linear(32, 10)

    def forward(self, inputs: Tensor, _: None) -> Tensor:
        """Return the scores of the ten digits (B, 10)."""
        x = inputs
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        scores: Tensor = self.last(x.mean((2, 3)))
        return scores


class RNN(nn.Module):
    """Two GRU layers that predict the next word, a norm before and after each."""

    def __init__(self, kind: str, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width, PADDING)
        self.layers = nn.ModuleList([nn.GRU(width, width, batch_first=True) for _ in range(2)])
        self.norms = nn.ModuleList([Normalize(kind, width) for _ in range(3)])
        self.last = nn.Linear(width, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of the words that may follow each (B, T, WORDS)."""
        x = self.norms[0](self.embedding(input_ids), attention_mask)
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            x = norm(layer(x)[0], attention_mask)
        scores: Tensor = self.last(x)
        return scores


class Transformer(nn.Module):
    """Two blocks that predict the next word, norms after the additions, as in the paper of 2017."""

    def __init__(self, kind: str, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width, PADDING)
        self.place = nn.Parameter(torch.randn(LONGEST, width) / 10)
        self.norms = nn.ModuleList([Normalize(kind, width) for _ in range(2 * blocks + 1)])
        self.reads = nn.ModuleList([nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(blocks)])
        feeds = [(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(blocks)]
        self.feeds = nn.ModuleList([nn.Sequential(*feed) for feed in feeds])
        self.last = nn.Linear(width, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the scores of the words that may follow each (B, T, WORDS)."""
        length = input_ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.norms[0](self.embedding(input_ids) + self.place[:length], attention_mask)
        for i, (read, feed) in enumerate(zip(self.reads, self.feeds, strict=True)):
            x = self.norms[2 * i + 1](
                x + read(x, x, x, attn_mask=later, need_weights=False)[0], attention_mask
            )
            x = self.norms[2 * i + 2](x + feed(x), attention_mask)
        scores: Tensor = self.last(x)
        return scores


def loss_of(model: nn.Module, batch: Samples) -> Tensor:
    """Return the cross-entropy of a batch, in nats; padding is no target."""
    scores = model(batch.inputs, batch.mask)
    if batch.mask is None:
        return cross_entropy(scores, batch.targets)
    return cross_entropy(scores[batch.mask], batch.targets[batch.mask])


def learn(model: nn.Module, rule: torch.optim.Optimizer, batch: Samples) -> float:
    """Take one training step; return the loss before it."""
    loss = loss_of(model, batch)
    rule.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    rule.step()
    return loss.item()


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Return the share of the targets that the model predicts."""
    with torch.no_grad():
        right = model.eval()(samples.inputs, samples.mask).argmax(-1) == samples.targets
    model.train()
    return float((right if samples.mask is None else right[samples.mask]).float().mean())


def sample_moments(model: Any, samples: Samples) -> list[Moments]:
    """Return the moments of each sample per feature or channel (N, D) at the input of each norm.

    The model is as it is used after training. Padding is left out.
    """
    found: list[Moments] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].double()
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)  # (N, C, H, W) -> (N, H W, C)
        mask = torch.ones(x.shape[:2]) if samples.mask is None else samples.mask
        weight = mask[..., None].double()
        count = weight.sum(1)
        mean = (x * weight).sum(1) / count
        found.append(Moments(count, mean, ((x - mean[:, None]).square() * weight).sum(1)))

    hooks = [norm.register_forward_pre_hook(keep) for norm in model.norms]
    with torch.no_grad():
        model.eval()(samples.inputs, samples.mask)
    model.train()
    for hook in hooks:
        hook.remove()
    return found


def running_gap(norm: Any, mean: Tensor, variance: Tensor) -> float:
    """Return how far a batch's mean was from the running mean before it, in standard deviations (TID).

    A step moves the running mean by `momentum` times the distance.
    """
    distance = (norm.running_mean - mean) / norm.momentum
    return float(distance.norm() / variance.sum().sqrt())
