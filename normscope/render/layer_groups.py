"""Chooses the rows of a deep model: of layers that differ only in their block, the ends and the extremes."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from normscope.render.short_names import shorten
from normscope.render.summary import agreement
from normscope.results.inspect import LayerReport
from normscope.results.layers import OutlinedLayer

Layer = TypeVar("Layer", LayerReport, OutlinedLayer)

MAX_ROWS = 13
_MAX_LISTED = 3
_PATTERN_WIDTH = 28


@dataclass(frozen=True)
class ShownLayers(Generic[Layer]):
    """The layers that have a row, and the number of others of each group, by the group's pattern."""

    layers: Sequence[Layer]
    hidden: dict[str, int]

    def note(self, ellipsis: str) -> list[str]:
        """Return the line that counts the layers without a row, if there are any."""
        if not self.hidden:
            return []
        names = shorten(list(self.hidden), _PATTERN_WIDTH, ellipsis)
        counts = [f"{n} {name}" for n, name in zip(self.hidden.values(), names, strict=True)]
        rest = [f"{len(counts) - _MAX_LISTED} groups more"] if len(counts) > _MAX_LISTED else []
        total = sum(self.hidden.values())
        return [f"{total} more: {', '.join(counts[:_MAX_LISTED] + rest)}; --layers all"]


def choose_rows(
    layers: Sequence[Layer],
    wanted: Collection[str],
    *,
    every: bool,
    number: Callable[[Any], float] = agreement,
) -> ShownLayers[Layer]:
    """Return at most about MAX_ROWS layers, those named in `wanted` among them; all layers if `every`.

    A group has the layers whose names differ only in numbers, such as that of the block. Its first and
    last layers have rows, and those with the least and the largest `number`; fewer where groups are many.
    """
    if every or len(layers) <= MAX_ROWS:
        return ShownLayers(layers, {})
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[pattern(layer.name)].append(layer)
    for size in (4, 2, 1):
        shown = {
            p: _representatives(g, size, number) | {x.name for x in g} & {*wanted} for p, g in groups.items()
        }
        if sum(map(len, shown.values())) <= MAX_ROWS:
            break
    hidden = {p: len(g) - len(shown[p]) for p, g in groups.items() if len(shown[p]) < len(g)}
    return ShownLayers([layer for p, g in groups.items() for layer in g if layer.name in shown[p]], hidden)


def pattern(name: str) -> str:
    """Return a name with a star for each number between points."""
    return re.sub(r"(?:(?<=\.)|^)\d+(?=\.|$)", "*", name)


def _representatives(group: Sequence[Layer], size: int, number: Callable[[Any], float]) -> set[str]:
    """Return the names of a group's layers with the least and largest number, of its first and its last."""
    measured = [layer for layer in group if math.isfinite(number(layer))] or group
    chosen = [min(measured, key=number), max(measured, key=number), group[0], group[-1]]
    return {layer.name for layer in chosen[:size]}
