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
# Modules with more weights than this are not tried: a copy would cost too much memory.
MAX_WEIGHTS = 1 << 20
# The scale of the random rows, so large that no eps and no threshold matters.
_ROW_SCALE = 1e3
# The relative change up to which outputs count as equal.
_TOLERANCE = 1e-3
# The relative change of each element, to test that the output follows the input.
_NUDGE = 0.01

# The results so far, by class, settings and shapes of weights.
_RESULTS: dict[tuple[object, ...], bool] = {}


def normalises(module: nn.Module) -> bool:
    """Whether a small module gives the same output for x and for 2x, as norms do.

    A copy of the module runs on rows of large norm, with the features on the last axis or on axis 1.
    torch's own classes are known and are not tried. The output must also follow small changes of the
    input: a constant is not a norm, and neither is a function that only jumps, such as a sign, a mask of
    the largest elements, or a softmax of rows of large norm.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not _is_small(module) or not may_be_tried(module):
        return False
    key = (type(module), module.extra_repr(), tuple(tuple(t.shape) for t in tensors))
    if key not in _RESULTS:
        _RESULTS[key] = any(_ignores_scale(module, x) for x in _inputs(tensors))
    return _RESULTS[key]


def is_untried(module: nn.Module) -> bool:
    """Whether a module could be a norm but is not tried: its code may do more than compute."""
    # Quantized and adapted Linears are of other packages' classes, and are no norms.
    return not isinstance(module, nn.Linear) and _is_small(module) and not may_be_tried(module)


def _is_small(module: nn.Module) -> bool:
    """Whether a module is not of torch's or PEFT's classes and has few enough weights to be tried."""
    tensors = [*module.parameters(), *module.buffers()]
    own = type(module).__module__.startswith(("torch.", "peft."))
    return not own and sum(map(Tensor.numel, tensors)) <= MAX_WEIGHTS


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore all random number generators at the end: Python's, numpy's, and torch's on all devices."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda._initialized else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def random_copy(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy on the CPU with random weights and buffers, which differ in every feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copied = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for part in copied.modules():  # Hooks are copied too, and must not be called here.
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            hooks.clear()
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            values = torch.rand(tensor.shape, generator=generator) + 0.5
            tensor.copy_(values if tensor.is_floating_point() else torch.zeros(()))
    return copied


def _inputs(tensors: list[Tensor]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [tuple(t.shape) for t in tensors if t.dim() == 2]
    widths = [math.prod(t.shape) for t in tensors if t.dim() >= 1] or [ANY_WIDTH]
    for shape in (*shapes, (max(widths),)):
        yield _ROW_SCALE * torch.randn((2, 3, *shape), generator=generator)
    yield _ROW_SCALE * torch.randn((2, max(widths), 3, 4), generator=generator)


def _ignores_scale(module: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), warnings.catch_warnings(), preserve_random_state():
            warnings.simplefilter("ignore")
            generator = torch.Generator().manual_seed(0)
            copied = random_copy(module, generator)
            nudged = x * (1 + _NUDGE * torch.randn(x.shape, generator=generator))
            output, doubled, near, other = (copied(value) for value in (x, 2 * x, nudged, x.roll(1, 0)))
    except (Exception, SystemExit):  # A copy of an unknown class may raise anything.
        return False
    if not isinstance(output, Tensor) or output.shape != x.shape or not output.is_floating_point():
        return False
    scale = float(output.double().square().mean().sqrt())
    # A jump changes few elements, if any, so the median stays 0.
    follows = float((near - output).abs().median()) > _TOLERANCE * scale
    return follows and _rms_difference(output, doubled) < _TOLERANCE * scale < _rms_difference(output, other)


def _rms_difference(one: Tensor, another: Tensor) -> float:
    return float((one.double() - another.double()).square().mean().sqrt())
