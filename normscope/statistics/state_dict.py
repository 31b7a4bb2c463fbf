"""Converts the tensors and numbers of a tree of objects to named tensors and back."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from normscope.errors import ReportError
from normscope.escaping import quoted

# The last part of a leaf's name says what it holds: _COUNTS are counts; _SQUARES cannot be negative.
_COUNTS = {"count", "large", "massive", "massive_positions", "most", "tokens", "histogram"}
_SQUARES = {"m2", "within", "within_samples", "square", "largest", "massive_largest", "eps"}
# float64 represents every integer up to this one exactly.
_MAXIMUM = 2**53


def state_dict(part: object, *, copy: bool = False) -> dict[str, Tensor]:
    """Return everything in `part` as tensors on the CPU, named by path, as `table.x.mean`.

    A number becomes a tensor of shape (). A dictionary becomes its (key, value) pairs, int64 (N, 2). The
    tensors may share memory with `part`, unless a `copy` is requested.
    """
    return {path: _tensor(getattr(owner, name), copy=copy) for path, owner, name in _leaves(part)}


def load_state_dict(part: object, tensors: Mapping[str, Tensor]) -> None:
    """Fill an empty `part` with the tensors of `state_dict`, which are not copied.

    Raises ReportError if a tensor is missing, has a wrong shape or dtype, or holds impossible values: a
    negative count or a negative sum of squares.
    """
    lengths: dict[str, int] = {}
    for path, owner, name in _leaves(part):
        value, new = getattr(owner, name), tensors.get(path)
        old = _tensor(value)
        if new is None or not _fits(old, new):
            got = "missing" if new is None else f"{_described(new)}; expected {_described(old)}"
            raise ReportError(f"the tensor {quoted(path)} is {got}")
        table, grows = path.partition(".")[0], _grows(old) and isinstance(value, Tensor)
        if grows and lengths.setdefault(table, len(new)) != len(new):
            raise ReportError(f"the tensor {quoted(path)} has {len(new)} rows; expected {lengths[table]}")
        _check_numbers(path, name, new)
        setattr(owner, name, _value(value, new))


def move(part: object, device: torch.device) -> None:
    """Move the tensors in `part` to this device, in place."""
    for _, owner, name in _leaves(part):
        value = getattr(owner, name)
        if isinstance(value, Tensor):
            setattr(owner, name, value.to(device))


def _leaves(part: object, path: str = "") -> Iterator[tuple[str, object, str]]:
    """Yield the path, the owner and the attribute name of each tensor, number and dictionary in `part`."""
    for name, value in vars(part).items():
        if isinstance(value, Tensor | int | float | dict):
            yield f"{path}{name}", part, name
        elif hasattr(value, "__dict__"):
            yield from _leaves(value, f"{path}{name}.")


def _tensor(value: Any, *, copy: bool = False) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=copy).contiguous()
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
    counts, squares = name in _COUNTS, name in _SQUARES
    if counts and not bool(((values >= 0) & (values.double() <= _MAXIMUM)).all()):
        raise ReportError(f"the tensor {quoted(path)} holds a value that is not a count; expected 0 or more")
    if path == "by_position.mean":  # Only column 1, the mean of variances, cannot be negative.
        values, squares = values[:, 1], True
    if squares and bool((values < 0).any()):  # NaN means unknown, and is allowed.
        raise ReportError(f"the tensor {quoted(path)} has negative numbers; expected 0 or more")


def _described(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
