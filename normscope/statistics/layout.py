"""Layouts: which axis of a layer's input is sample, position or feature.

Letters: B is the sample, T the position of a token, H a head, D the feature, W a window and N the
position in a sequence of the layer's own.
"""

import math
from collections.abc import Callable, Iterator

from torch import Tensor

POOLED = "(B, D)"
UNALIGNED = "unaligned"

# Reorders the row numbers of an input from the input's axes to samples and positions.
Order = Callable[[Tensor], Tensor]


def lead_axes(shape: tuple[int, ...], feature_axis: int, features: int) -> tuple[int, ...] | None:
    """Return the sizes of the axes other than the features; None if `shape` has no such feature axes."""
    if feature_axis == 1:
        return (shape[0], *shape[2:]) if len(shape) > 1 and shape[1] == features else None
    lead = shape[:-1]
    while lead and math.prod(shape[len(lead) :]) < features:
        lead = lead[:-1]
    return lead if shape and math.prod(shape[len(lead) :]) == features else None


def to_rows(values: Tensor, feature_axis: int, features: int) -> Tensor:
    """Reshape a layer's input or output to rows (R, D); the axes other than the features keep their order."""
    if feature_axis == 1 and values.dim() > 2:
        values = values.movedim(1, -1)
    return values.reshape(-1, features)


def token_layouts(lead: tuple[int, ...], tokens: tuple[int, ...], feature_axis: int = -1) -> dict[str, Order]:
    """Return the layouts, by name, in which axes of the sizes `lead` can hold tokens of sizes (B, T).

    `tokens` is (B, T). Each layout comes with the function that reorders row numbers to (B, T, heads);
    the function of POOLED leaves them as they are.
    """
    return _by_name(_matches(lead, *tokens), feature_axis)


def sequence_layouts(lead: tuple[int, ...], samples: int, feature_axis: int, letter: str) -> dict[str, Order]:
    """Return the layouts, by name, in which axes of the sizes `lead` can hold a sequence of any length.

    `letter` is the name of the sequence axis. Each layout comes with the function that reorders row
    numbers to (B, N); the function of POOLED leaves them as they are.
    """
    return _by_name(_sequences(lead, samples, feature_axis, letter), feature_axis)


def plain_layout(axes: int, feature_axis: int) -> str:
    """Name the layout of `axes` axes other than the features: first the sample, then the positions."""
    positions = "T" if axes == 2 else ", ".join(f"T{i}" for i in range(1, axes))
    return _named(f"(B, {positions}, D)", feature_axis)


def is_own_sequence(layout: str | None) -> bool:
    """Whether the layout is that of a layer's own sequence, not of the model's tokens."""
    return layout is not None and "N" in layout


def _by_name(layouts: "Iterator[tuple[str, Order]]", feature_axis: int) -> dict[str, Order]:
    return {_named(name, feature_axis): order for name, order in layouts}


def _sequences(
    lead: tuple[int, ...], samples: int, feature_axis: int, letter: str
) -> "Iterator[tuple[str, Order]]":
    """Yield the layouts that a sequence of any length may have, each with its reordering to (B, N)."""
    if len(lead) < 2:
        return
    rest = letter if len(lead) == 2 else ", ".join(f"{letter}{i}" for i in range(1, len(lead)))
    if lead[0] == samples:
        yield f"(B, {rest}, D)", lambda rows: rows.flatten(1)
    if len(lead) == 2 and lead[1] == samples and feature_axis == -1:
        yield f"({letter}, B, D)", lambda rows: rows.T
    if samples and lead[0] != samples and lead[0] % samples == 0:
        yield f"(B*W, {rest}, D)", lambda rows: rows.reshape(samples, -1)
    elif lead[0] != samples and feature_axis == 1:
        yield f"(N0, {rest}, D)", lambda rows: rows.flatten(1)
    elif math.prod(lead) == samples:
        yield POOLED, lambda rows: rows  # Video frames, for example, each a sample of its own.


def _named(layout: str, feature_axis: int) -> str:
    """Return the layout's name, with D moved to axis 1 if the features are there."""
    if feature_axis == -1:
        return layout
    first, *rest = layout.strip("()").split(", ")[:-1]
    return f"({', '.join([first, 'D', *rest])})"


def _matches(lead: tuple[int, ...], samples: int, length: int) -> "Iterator[tuple[str, Order]]":
    """Yield the layouts that the sizes allow, each with its reordering of row numbers to (B, T, heads)."""
    tokens = samples * length
    if lead == (samples, length):
        yield "(B, T, D)", lambda rows: rows[:, :, None]
    if lead[:2] == (samples, length) and len(lead) > 2:
        yield "(B, T, H, D)", lambda rows: rows.flatten(2)
    if len(lead) == 3 and (lead[0], lead[2]) == (samples, length):
        yield "(B, H, T, D)", lambda rows: rows.transpose(1, 2)
    if lead == (length, samples):
        yield "(T, B, D)", lambda rows: rows.T[:, :, None]
    if lead == (tokens,):
        yield "(B*T, D)", lambda rows: rows.reshape(samples, length, 1)
    if len(lead) == 2 and lead[0] == tokens != samples:
        yield "(B*T, H, D)", lambda rows: rows.reshape(samples, length, -1)
    if len(lead) == 2 and lead[1] == length and 0 < samples < lead[0] and lead[0] % samples == 0:
        yield "(B*H, T, D)", lambda rows: rows.reshape(samples, -1, length).transpose(1, 2)
    if lead == (samples,) and length > 1:
        yield POOLED, lambda rows: rows
    if len(lead) == 1 and 0 < tokens < lead[0] and lead[0] % tokens == 0:
        yield "(B*T*H, D)", lambda rows: rows.reshape(samples, length, -1)
