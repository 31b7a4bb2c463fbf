"""Folds fixed scales and shifts into the Linears that read them, and checks that outputs stay equal.

y = scale * x + shift before W y + c is W' x + c' with W' = W diag(scale) and c' = c + W shift. If the
layer's own centring stays, each row of W' also loses its mean.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.fold_file import Fold, Folded, changed, digest
from normscope.analyses.swap.options import FITTED, require_fixed
from normscope.analyses.swap.replacement import Line, obstacle
from normscope.analyses.swap.swapped import Swap
from normscope.engine.forward import evaluating, tensors_in
from normscope.norms.module_tree import named_modules
from normscope.norms.readers import LinearReader, Readers
from normscope.results.inspect import Report

# The number of values of two outputs that are compared at once.
PART = 1 << 20

# Runs the model once on one batch. It takes the names of the replaced or folded layers: the blocks
# before them may replay their recorded outputs.
Run = Callable[[Sequence[str]], Iterable[Tensor]]
# Returns the result of some work on each batch; a batch that does not fit in memory runs in parts.
RunBatches = Callable[[Callable[[Run], list[Tensor]]], Iterable[list[Tensor]]]


def fold(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    kind: str = FITTED,
    statistics: Report | Calibration | None = None,
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Fold:
    """Fold the fixed scale and shift of replaced layers into the Linears that read them.

        calibration = normscope.calibrate(model, texts, tokenizer=tokenizer)
        fold = normscope.fold(model, batch, statistics=calibration)
        fold.refused                          # which layers cannot be folded, and why
        with fold.applied(model): ...         # until the context ends; fold.apply(model) for good
        fold.save("folder")                   # then normscope.read_fold("folder").apply(model)

    The model itself does not change. A layer is folded if only Linears (or transformers' Conv1D) read its
    output, if no other input meets their weights and no other module shares them, and if the model does
    not return the output. One forward, `model(**inputs)`, shows that. On it the model with folded layers
    must also equal the model with replaced layers, by `tolerance`. Layers that are not folded stay as they
    are. All other arguments are as for `swapped`.
    Raises what `swapped` raises, and UsageError for a `kind` whose scale and shift are not fixed.
    """
    require_fixed(kind)
    swap = Swap(model, kind, statistics, layers, exclude)

    def run_once(work: Callable[[Run], list[Tensor]]) -> list[list[Tensor]]:
        return [work(lambda _names: tensors_in(model(**inputs)))]

    name = getattr(swap.model, "name_or_path", "") or type(swap.model).__name__
    with evaluating(model), torch.no_grad():
        unchecked = fold_readers(swap, name, lambda: model(**inputs))
        return check_fold(swap, unchecked, run_once).fold


def fold_readers(swap: Swap, model: str, run: Callable[[], Any]) -> Fold:
    """Fold the layers that one forward allows, unchecked; `run` is that forward and returns its output."""
    readers = Readers(swap.model, [replacement.norm for replacement in swap.replacements.values()])
    with swap.settling(), readers.watching():
        returned = run()
    readers.returns(tensors_in(returned))
    modules = dict(named_modules(swap.model))
    layers: dict[str, Folded] = {}
    refused: dict[str, str] = {}
    for name, replacement in swap.replacements.items():
        reason = readers.obstacle(name) or obstacle(replacement.norm)
        if reason is not None:
            refused[name] = reason
            continue
        line = replacement.line()
        parameters = {
            path: value for reader in readers.linears(name) for path, value in _parameters(reader, line)
        }
        layers[name] = Folded(parameters, digest(modules, name, parameters))
    return Fold(model, swap.kind, layers, refused)


def _parameters(reader: LinearReader, line: Line) -> Iterator[tuple[str, Tensor]]:
    """Yield the new W, and the new c if it exists or is not 0, each with its name."""
    own, bias = (
        reader.module._parameters.get(path.rpartition(".")[2]) for path in (reader.weight, reader.bias)
    )
    if own is None:
        return
    stored = own.detach().cpu().double()
    weight = stored if reader.transposed else stored.mT  # (out, D)
    scaled = weight * line.scale
    if line.centred:
        scaled -= scaled.mean(1, keepdim=True)
    yield reader.weight, (scaled if reader.transposed else scaled.mT).to(own.dtype).contiguous()
    shift = weight @ line.shift
    if bias is not None:
        yield reader.bias, (bias.detach().cpu().double() + shift).to(bias.dtype)
    elif shift.any():
        yield reader.bias, shift.to(own.dtype)


@dataclass(frozen=True)
class Difference:
    """The difference between the outputs of two models over all batches, NaN if they have no outputs.

    `absolute` is the largest difference of two numbers. `relative` is the maximum, over outputs, of the
    output's largest difference divided by its largest number.
    """

    absolute: float = math.nan
    relative: float = math.nan

    @classmethod
    def of(cls, batches: Sequence[Tensor]) -> "Difference":
        """Combine the differences of each batch, as `compare_outputs` returns them."""
        largest = torch.stack([*batches]).amax(0) if batches else torch.zeros(0, 2)
        if not len(largest):
            return cls()
        difference, size = largest.unbind(1)
        tiny = torch.finfo(size.dtype).tiny
        return cls(float(difference.max()), float((difference / size.clamp(min=tiny)).max()))


def compare_outputs(expected: Iterable[Tensor], actual: Iterable[Tensor]) -> Tensor:
    """Compare what two models return for a batch.

    Returns (outputs, 2): for each output the largest difference, and the largest number of `expected`.
    """
    rows = [_compare_tensors(a, b) for a, b in zip(expected, actual, strict=True) if a.is_floating_point()]
    return torch.stack(rows) if rows else torch.zeros(0, 2)


def _compare_tensors(a: Tensor, b: Tensor) -> Tensor:
    rows = [torch.zeros(2, dtype=torch.float64)]
    for part, other in zip(*(torch.split(v.reshape(-1), PART) for v in (a, b)), strict=True):
        x, y = part.double().cpu(), other.double().cpu()
        difference = torch.where(x == y, 0.0, (x - y).abs())  # Two equal infinities differ by 0, not NaN.
        size = x.abs().where(x.isfinite(), 0.0)
        rows += [torch.stack([difference.max(), size.max()])] if len(x) else []
    return torch.stack(rows).amax(0)


@dataclass(frozen=True)
class CheckedFold:
    """A fold whose layers all passed the check, and how far its outputs are from those of `swapped`.

    `alone` has every layer that was tried, `together` is for those that are folded.
    """

    fold: Fold
    tolerance: float
    alone: Mapping[str, Difference]
    together: Difference


def check_fold(swap: Swap, unchecked: Fold, run_batches: RunBatches) -> CheckedFold:
    """Compare the model with layers folded to the model with them replaced; unfold layers that differ."""
    limit = tolerance(swap.model)
    differences = _differences(swap, unchecked, [(name,) for name in unchecked.layers], run_batches)
    alone = dict(zip(unchecked.layers, differences, strict=True))
    fold = _without(unchecked, {name: _failure(difference, limit) for name, difference in alone.items()})
    (together,) = _differences(swap, fold, [tuple(fold.layers)], run_batches)
    if fold.layers and (reason := _failure(together, limit)):
        fold = _without(fold, dict.fromkeys(fold.layers, f"all of them together: {reason}"))
    return CheckedFold(fold, limit, alone, together)


def tolerance(model: nn.Module) -> float:
    """Return the relative difference up to which outputs count as equal: half of the digits of its dtype."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return math.sqrt(torch.finfo(dtype).eps)


def _failure(difference: Difference, limit: float) -> str | None:
    """Say by how much a difference is above the limit, None if it is not; NaN is above it."""
    if difference.relative <= limit:
        return None
    size = f"{difference.relative:.1e} of its largest number"
    return f"folded, an output differs by {size}, more than {limit:.1e}"


def _without(fold: Fold, failures: Mapping[str, str | None]) -> Fold:
    failed = {name: reason for name, reason in failures.items() if reason is not None}
    passed = fold.only([name for name in fold.layers if name not in failed])
    return replace(passed, refused={**fold.refused, **failed})


def _differences(
    swap: Swap, fold: Fold, variants: Sequence[Sequence[str]], run_batches: RunBatches
) -> list[Difference]:
    """Return, for each variant, the difference between its layers folded and its layers replaced."""
    changes = [fold.only(names).changes(swap.model) for names in variants]

    def work(run: Run) -> list[Tensor]:
        rows = []
        for names, change in zip(variants, changes, strict=True):
            with swap.replacing(names):
                expected = [*run(names)]
            with changed(change):
                rows.append(compare_outputs(expected, run(names)))
        return rows

    batches = list(run_batches(work)) if fold.layers else []
    return [Difference.of([rows[index] for rows in batches]) for index in range(len(variants))]
