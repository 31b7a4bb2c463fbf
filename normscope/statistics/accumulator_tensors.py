"""Converts an accumulator to named tensors and back."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from normscope.errors import ReportError
from normscope.escaping import quoted
from normscope.statistics.accumulator import Accumulator

# The last part of a leaf's name says what it holds: COUNTS are counts; _SQUARES cannot be negative.
COUNTS = {"count", "large", "massive", "massive_positions", "most", "tokens"}
_SQUARES = {"m2", "within", "within_samples", "square", "largest", "massive_largest", "eps"}
# float64 represents every integer up to this one exactly.
MOST = 2**53


def pack(moments: Accumulator) -> dict[str, Tensor]:
    """Return everything in the accumulator as tensors on the CPU, named by path, as `table.x.mean`.

    A number becomes a tensor of shape (). A dictionary becomes its (key, value) pairs, int64 (N, 2).
    """
    return {path: _tensor(getattr(owner, name)) for path, owner, name in _leaves(moments)}


def unpack(tensors: Mapping[str, Tensor], features: int) -> Accumulator:
    """Return the accumulator of a layer with `features` features, from the tensors of `pack`.

    Raises ReportError if a tensor is missing, has a wrong shape or dtype, or holds impossible values: a
    negative count or a negative sum of squares.
    """
    # Checked first: a wrong number of features must not allocate that much memory.
    if not 0 < features == tensors.get("output.mean", torch.empty(0, 0)).shape[-1:].numel():
        raise ReportError(f"the tensor 'output.mean' is not of {features} features; expected that")
    moments = Accumulator(features, 0.0, words=1 if "words.most" in tensors else None)
    lengths: dict[str, int] = {}
    for path, owner, name in _leaves(moments):
        old, new = _tensor(getattr(owner, name)), tensors.get(path)
        if new is None or not _fits(old, new):
            got = "missing" if new is None else f"{_described(new)}; expected {_described(old)}"
            raise ReportError(f"the tensor {quoted(path)} is {got}")
        table, grows = path.partition(".")[0], _grows(old) and isinstance(getattr(owner, name), Tensor)
        if grows and lengths.setdefault(table, len(new)) != len(new):
            raise ReportError(f"the tensor {quoted(path)} has {len(new)} rows; expected {lengths[table]}")
        _check_numbers(path, name, new)
        setattr(owner, name, _value(getattr(owner, name), new))
    _check_words(moments)
    return moments


def copied(moments: Accumulator, *, share: bool = False) -> Accumulator:
    """Return a copy on the CPU; it is independent, unless it may `share` memory with the original."""
    tensors = {path: values if share else values.clone() for path, values in pack(moments).items()}
    return unpack(tensors, moments.output.mean.shape[1])


def moved(moments: Accumulator, device: torch.device) -> Accumulator:
    """Move the accumulator's tensors to this device, in place, and return the accumulator."""
    for _, owner, name in [*_leaves(moments)]:
        value = getattr(owner, name)
        if isinstance(value, Tensor):
            setattr(owner, name, value.to(device))
    return moments


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield the path, the owner and the attribute name of each tensor, number and dictionary of `part`."""
    for name, value in vars(part).items():
        if isinstance(value, Tensor | int | float | dict):
            yield f"{path}{name}", part, name
        elif hasattr(value, "__dict__"):
            yield from _leaves(value, f"{path}{name}.")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, dict):
        return torch.tensor(list(value.items()), dtype=torch.int64).reshape(-1, 2)
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def _value(old: Any, new: Tensor) -> Any:
    if isinstance(old, dict):
        return dict(new.tolist())
    return new if isinstance(old, Tensor) else new.item()


def _fits(old: Tensor, new: Tensor) -> bool:
    """Whether `new` may replace `old`: only a table without rows may get another number of rows."""
    same = old.shape[1:] == new.shape[1:] if _grows(old) else old.shape == new.shape
    return same and old.dim() == new.dim() and old.dtype == new.dtype


def _grows(old: Tensor) -> bool:
    return old.dim() == 2 and len(old) == 0


def _check_numbers(path: str, name: str, values: Tensor) -> None:
    counts, squares = name in COUNTS, name in _SQUARES
    if counts and not bool(((values >= 0) & (values <= MOST)).all()):
        raise ReportError(f"the tensor {quoted(path)} holds what is no count; expected 0 or more")
    if path == "by_position.mean":  # Only column 1, the mean of variances, cannot be negative.
        values, squares = values[:, 1], True
    if squares and bool((values < 0).any()):  # NaN means unknown, and is allowed.
        raise ReportError(f"the tensor {quoted(path)} has negative numbers; expected 0 or more")


def _described(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


def _check_words(moments: Accumulator) -> None:
    words = moments.words
    rows = sorted(words.rows.values()) if words else []
    if words and (rows != list(range(len(rows))) or len(rows) > min(words.most, len(words.count))):
        raise ReportError("the rows of 'words' are not numbered from 0 within its tables; expected that")
