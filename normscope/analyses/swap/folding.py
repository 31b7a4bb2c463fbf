"""Folds fixed scales and shifts into the Linears that read them, and checks that outputs stay equal.

y = scale * x + shift before W y + c is W' x + c' with W' = W diag(scale) and c' = c + W shift; where the
layer's own centring stays, W' also has each row's mean taken out.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.fold_file import Change, Fold, Folded, changed, digest
from normscope.analyses.swap.options import FITTED, require_fixed
from normscope.analyses.swap.output_consumers import Consumer, Consumers
from normscope.analyses.swap.replacement import Line, obstacle
from normscope.analyses.swap.swapped import Swap
from normscope.engine.forward import evaluating, tensors_in
from normscope.norms.module_tree import named_modules
from normscope.results.inspect import Report

# The number of values of two outputs that are compared at once.
PART = 1 << 20

# Runs the model once on one batch. It takes the names of the replaced or folded layers: the blocks
# before them may replay their recorded outputs.
Run = Callable[[Sequence[str]], Iterable[Tensor]]
T = TypeVar("T")


class _BatchReplay(Protocol):
    """Iterates over the batches, or parts of them, at each call, and yields a result for each."""

    def __call__(self, work: Callable[[Run], T]) -> Iterable[T]:
        """Return the result of `work` for each batch; a batch that does not fit in memory runs in parts."""


def fold(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    kind: str = FITTED,
    statistics: Report | Calibration | None = None,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Fold:
    """Fold the fixed scale and shift of replaced layers into the Linears that read them; the model stays.

        known = normscope.calibrate(model, texts, tokenizer=tokenizer)
        fold = normscope.fold(model, batch, statistics=known)
        fold.refused                          # which layers cannot be folded, and why
        with fold.applied(model): ...         # until the context ends; fold.apply(model) for good
        fold.save("folder")                   # then normscope.read_fold("folder").apply(model)

    A layer is folded where nothing but Linears (or transformers' Conv1D) reads its output, with weights that
    no other input meets and no other module shares, and where the model does not return it. That is found
    in one forward, `model(**inputs)`; on it the model with layers replaced must be equal to the one with
    them folded, by `tolerance`. All else is as for `swapped`; the layers that are not folded stay themselves.
    Raises what `swapped` raises, and UsageError for a `kind` whose scale and shift are not fixed.
    """
    require_fixed(kind)
    swap = Swap(model, kind, statistics, layers, exclude)

    def run(work: Callable[[Run], T]) -> Iterable[T]:
        return [work(lambda _names: tensors_in(model(**inputs)))]

    name = getattr(swap.model, "name_or_path", "") or type(swap.model).__name__
    with evaluating(model), torch.no_grad():
        made = foldable(swap, name, lambda: model(**inputs))
        return proven(swap, made, run).fold


def foldable(swap: Swap, model: str, run: Callable[[], Any]) -> Fold:
    """Fold the layers that one forward allows, unchecked; `run` is that forward, and returns its output."""
    consumers = Consumers(swap.model, [each.norm for each in swap.replacements.values()])
    with swap.settling(), consumers.watching():
        returned = run()
    modules = dict(named_modules(swap.model))
    layers: dict[str, Folded] = {}
    refused: dict[str, str] = {}
    for name, replacement in swap.replacements.items():
        found = consumers.of(replacement.norm, returned)
        why = found if isinstance(found, str) else obstacle(replacement.norm)
        if isinstance(found, str) or why is not None:
            refused[name] = str(why)
        else:
            line = replacement.line()
            parameters = {key: value for each in found for key, value in _parameters(each, line)}
            layers[name] = Folded(parameters, digest(modules, name, parameters))
    return Fold(model, swap.kind, layers, refused)


def _parameters(consumer: Consumer, line: Line) -> Iterator[tuple[str, Tensor]]:
    """Yield the new W, and the new c if it exists or is not 0, each with its name."""
    own, bias = (
        consumer.module._parameters.get(path.rpartition(".")[2]) for path in (consumer.weight, consumer.bias)
    )
    if own is None:
        return
    kept = own.detach().cpu().double()
    weight = kept if consumer.transposed else kept.mT  # (out, D)
    scaled = weight * line.scale
    if line.centred:
        scaled -= scaled.mean(1, keepdim=True)
    yield consumer.weight, (scaled if consumer.transposed else scaled.mT).to(own.dtype).contiguous()
    shift = weight @ line.shift
    if bias is not None:
        yield consumer.bias, (bias.detach().cpu().double() + shift).to(bias.dtype)
    elif shift.any():
        yield consumer.bias, shift.to(own.dtype)


class Difference:
    """How far apart the outputs of two models are, batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, outputs: Tensor) -> None:
        """Add what `compared` gives for a batch."""
        self._parts.append(outputs)

    def _largest(self) -> tuple[Tensor, Tensor]:
        """Return the largest difference and the largest value of each output over all batches."""
        largest = torch.stack(self._parts).amax(0) if self._parts else torch.zeros(0, 2)
        return largest[:, 0], largest[:, 1]

    @property
    def absolute(self) -> float:
        """The largest difference of two numbers; NaN where there is none, or where one is no number."""
        difference, _ = self._largest()
        return float(difference.max()) if len(difference) else math.nan

    @property
    def relative(self) -> float:
        """The largest difference over the largest value of an output, maximum over outputs; NaN if none."""
        difference, size = self._largest()
        tiny = torch.finfo(size.dtype).tiny
        return float((difference / size.clamp(min=tiny)).max()) if len(difference) else math.nan


def compared(expected: Iterable[Tensor], found: Iterable[Tensor]) -> Tensor:
    """Compare what two models return for a batch, output by output: (outputs, 2)."""
    rows = [_compared(a, b) for a, b in zip(expected, found, strict=True) if a.is_floating_point()]
    return torch.stack(rows) if rows else torch.zeros(0, 2)


def _compared(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference of two tensors, and the largest number of the first: (2,)."""
    rows = [torch.zeros(2, dtype=torch.float64)]
    for part, other in zip(*(torch.split(v.reshape(-1), PART) for v in (a, b)), strict=True):
        x, y = part.double().cpu(), other.double().cpu()
        apart = torch.where(x == y, 0.0, (x - y).abs())  # Where both are infinite, too.
        size = x.abs().where(x.isfinite(), 0.0)
        rows += [torch.stack([apart.max(), size.max()])] if len(x) else []
    return torch.stack(rows).amax(0)


@dataclass(frozen=True)
class Proven:
    """A fold of which every layer was proved, and by how much it changes the outputs beside `swapped`.

    `alone` has every layer that was tried, `together` those that are folded.
    """

    fold: Fold
    tolerance: float
    alone: Mapping[str, Difference]
    together: Difference


def proven(swap: Swap, made: Fold, runs: _BatchReplay) -> Proven:
    """Run the model with layers replaced beside the one with them folded; unfold what is not equal."""
    most = tolerance(swap.model)
    found = _differences(swap, made, [(name,) for name in made.layers], runs)
    alone = dict(zip(made.layers, found, strict=True))
    against = {name: _unequal(each, most) for name, each in alone.items()}
    made = _without(made, {name: why for name, why in against.items() if why})
    (together,) = _differences(swap, made, [tuple(made.layers)], runs)
    if made.layers and (why := _unequal(together, most)):
        made = _without(made, dict.fromkeys(made.layers, f"all of them together: {why}"))
    return Proven(made, most, alone, together)


def tolerance(model: nn.Module) -> float:
    """Return the relative difference up to which outputs count as equal: half of the digits of its dtype."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return math.sqrt(torch.finfo(dtype).eps)


def _unequal(found: Difference, most: float) -> str | None:
    if found.relative <= most:
        return None
    return f"folded, an output differs by {found.relative:.1e} of its largest number, more than {most:.1e}"


def _without(made: Fold, against: Mapping[str, str]) -> Fold:
    kept = made.only([name for name in made.layers if name not in against])
    return replace(kept, refused={**made.refused, **against})


def _differences(
    swap: Swap, made: Fold, variants: Sequence[Sequence[str]], runs: _BatchReplay
) -> list[Difference]:
    changes: list[list[Change]] = [made.only(names).changes(swap.model) for names in variants]
    found = [Difference() for _ in variants]

    def work(run: Run) -> list[Tensor]:
        rows = []
        for names, change in zip(variants, changes, strict=True):
            with swap.replacing(names):
                expected = [*run(names)]
            with changed(change):
                rows.append(compared(expected, run(names)))
        return rows

    for rows in runs(work) if made.layers else ():
        for difference, row in zip(found, rows, strict=True):
            difference.add(row)
    return found
