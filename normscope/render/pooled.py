"""Tables of a few texts: the tokens that BatchNorm pools, and who takes one mean of what."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from normscope.escaping import counted, grouped, printable
from normscope.render.grid import Column, Grid
from normscope.render.numbers import align
from normscope.render.short_names import cut_middle
from normscope.results.common import Pooled
from normscope.results.inspect import Report

_MAX_POSITIONS = 16
_WIDEST_TOKEN = 14


def pooled_grid(pooled: Pooled) -> Grid:
    """Return the grid of tokens by position: each column is one feature of BatchNorm per position."""
    length = max(map(len, pooled.texts), default=0)
    columns = [
        Column(str(at), "", [_token(tokens, at) for tokens in pooled.texts], rank=at + 3)
        for at in range(min(_MAX_POSITIONS, length))
    ]
    numbers = Column("text", "", [str(i) for i, _ in enumerate(pooled.texts, start=1)])
    notes = [
        "BatchNorm over flattened texts takes one mean and one variance per column; LayerNorm takes one of "
        "each per token."
    ]
    heading = f"What BatchNorm pools: tokens by position, {counted(length, 'position')}"
    return Grid(heading, [numbers, *columns], notes)


def _token(tokens: Sequence[str], at: int) -> str:
    return cut_middle(printable(tokens[at]), _WIDEST_TOKEN, "~") if at < len(tokens) else ""


def means_grid(report: Report) -> Grid | None:
    """Return the table of how many means each norm takes of these texts, and of how many numbers each."""
    layers = [layer for layer in report.layers.values() if layer.position is not None and layer.features]
    if not layers:
        return None
    features = Counter(layer.features for layer in layers).most_common(1)[0][0]
    positions = max(int(np.count_nonzero(layer.position.count)) for layer in layers if layer.position)
    tokens = report.run.tokens
    rows = (
        ("LayerNorm of a Transformer", "one token, all features", tokens),
        ("LayerNorm over a whole text", "one row, all features", report.run.texts),
        ("BatchNorm by feature", "one feature, all tokens", features),
        ("BatchNorm by position", "one column, all features", positions),
        ("BatchNorm over flattened texts", "one column, one feature", positions * features),
    )
    columns = [
        Column("norm", "", [norm for norm, _, _ in rows]),
        Column("takes one mean of", "", [pool for _, pool, _ in rows]),
        Column("means", "", align(grouped(means) for _, _, means in rows)),
        Column("numbers in each", "", align(_average(tokens * features / means) for _, _, means in rows)),
    ]
    return Grid(f"Who takes one mean of what: {counted(features, 'feature')}", columns)


def _average(count: float) -> str:
    return grouped(int(count)) if count == int(count) else f"{count:,.1f}"
