"""Detects norms by scale invariance: compares f(x) with f(2x) on a random copy."""

import copy
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from normscope.norms.tensor_arithmetic import may_be_tried

ANY_WIDTH = 8
# A module with more weights than this is no norm: copies would cost memory.
MOST_WEIGHTS = 1 << 20
# LONG is the scale of the rows for the trial, so large that no eps and no threshold matters; SAME is the
# relative change up to which outputs count as equal.
LONG, SAME = 1e3, 1e-3
# The relative change of each element, to test that the output follows the input.
_NUDGE = 0.01

_TOLD: dict[tuple[object, ...], bool] = {}


def normalises(module: nn.Module) -> bool:
    """Whether a small module, not of torch's classes, gives the same for x and for 2 x, as norms do.

    A copy runs on rows of large norm, with the features on the last axis or on axis 1. torch's own
    classes are known and are not tried. The output must also follow the input. A constant output is not a
    norm, nor is one that is constant except for jumps: a sign, a mask of the largest elements, or a
    softmax of rows of large norm.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not _is_small(module) or not may_be_tried(module):
        return False
    key = (type(module), module.extra_repr(), tuple(tuple(t.shape) for t in tensors))
    if key not in _TOLD:
        _TOLD[key] = any(_ignores_scale(module, x) for x in _inputs(tensors))
    return _TOLD[key]


def is_untried(module: nn.Module) -> bool:
    """Whether a module could be a norm but is not tried: its code may do more than compute."""
    return _is_small(module) and not may_be_tried(module)


def _is_small(module: nn.Module) -> bool:
    """Whether a module of a class that is not torch's has so few weights that it may be a norm."""
    tensors = [*module.parameters(), *module.buffers()]
    return (
        not type(module).__module__.startswith("torch.") and sum(map(Tensor.numel, tensors)) <= MOST_WEIGHTS
    )


@contextmanager
def own_chance() -> Iterator[None]:
    """Restore all random number generators at the end: Python's, numpy's, and torch's on all devices."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda._initialized else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def filled(module: nn.Module, dice: torch.Generator) -> nn.Module:
    """Return a copy on the CPU, with weights and buffers that differ in every feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copied = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for part in copied.modules():  # Hooks are copied too, and must not be called here.
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            hooks.clear()
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            values = torch.rand(tensor.shape, generator=dice) + 0.5
            tensor.copy_(values if tensor.is_floating_point() else torch.zeros(()))
    return copied


def _inputs(tensors: list[Tensor]) -> Iterator[Tensor]:
    dice = torch.Generator().manual_seed(0)
    shapes = [tuple(t.shape) for t in tensors if t.dim() == 2]
    widths = [math.prod(t.shape) for t in tensors if t.dim() >= 1] or [ANY_WIDTH]
    for shape in (*shapes, (max(widths),)):
        yield LONG * torch.randn((2, 3, *shape), generator=dice)
    yield LONG * torch.randn((2, max(widths), 3, 4), generator=dice)


def _ignores_scale(module: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), warnings.catch_warnings(), own_chance():
            warnings.simplefilter("ignore")
            dice = torch.Generator().manual_seed(0)
            tried = filled(module, dice)
            nudged = x * (1 + _NUDGE * torch.randn(x.shape, generator=dice))
            given = (x, 2 * x, nudged, x.roll(1, 0))
            once, twice, near, other = (tried(value) for value in given)
    except (Exception, SystemExit):  # A copy of an unknown class may raise anything.
        return False
    if not isinstance(once, Tensor) or once.shape != x.shape or not once.is_floating_point():
        return False
    scale = float(once.double().square().mean().sqrt())
    # A jump changes few elements, if any, so the median stays 0.
    follows = float((near - once).abs().median()) > SAME * scale
    return follows and _gap(once, twice) < SAME * scale < _gap(once, other)


def _gap(one: Tensor, another: Tensor) -> float:
    return float((one.double() - another.double()).square().mean().sqrt())
