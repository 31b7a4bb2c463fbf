"""Chooses the rows of a deep model: of layers that differ only in their block, the ends and the extremes."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from normscope.render.short_names import shorten
from normscope.render.summary import agreement
from normscope.results.inspect import LayerReport

MAX_ROWS = 13
_MAX_LISTED = 3
_PATTERN_WIDTH = 28


@dataclass(frozen=True)
class ShownLayers:
    """The layers that have a row, and the number of others of each group, by the group's pattern."""

    layers: Sequence[LayerReport]
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


def choose_rows(layers: Sequence[LayerReport], wanted: Collection[str], *, every: bool) -> ShownLayers:
    """Return at most about MAX_ROWS layers, those named in `wanted` among them; all layers if `every`.

    A group has the layers whose names differ only in numbers, such as that of the block. Its first and
    last layers have rows, and those that agree least and most with BN; fewer where groups are many.
    """
    if every or len(layers) <= MAX_ROWS:
        return ShownLayers(layers, {})
    groups: dict[str, list[LayerReport]] = defaultdict(list)
    for layer in layers:
        groups[_pattern(layer.name)].append(layer)
    for size in (4, 2, 1):
        shown = {p: _representatives(g, size) | {x.name for x in g} & {*wanted} for p, g in groups.items()}
        if sum(map(len, shown.values())) <= MAX_ROWS:
            break
    hidden = {p: len(g) - len(shown[p]) for p, g in groups.items() if len(shown[p]) < len(g)}
    return ShownLayers([layer for p, g in groups.items() for layer in g if layer.name in shown[p]], hidden)


def _pattern(name: str) -> str:
    """Return a name with a star for each number between points."""
    return re.sub(r"(?:(?<=\.)|^)\d+(?=\.|$)", "*", name)


def _representatives(group: Sequence[LayerReport], size: int) -> set[str]:
    """Return the names of a group's layers that agree least and most with BN, of its first and its last."""
    measured = [layer for layer in group if math.isfinite(agreement(layer))] or group
    extremes = [min(measured, key=agreement), max(measured, key=agreement)]
    return {layer.name for layer in [*extremes, group[0], group[-1]][:size]}
