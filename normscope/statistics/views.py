"""The seven views: each says which axes share one mean and one variance.

A view is named by what it keeps. `feature`, `position` and `global` are exact reductions of the
(position x feature) table; `token`, `sequence` and `instance` grow with the corpus and are kept
as summaries by the accumulator.

| view               | one (mean, variance) per | reduces over | who normalises so                    |
| token              | token                    | d            | LayerNorm, RMSNorm                   |
| feature            | feature                  | n, t         | BatchNorm1d with the feature as C    |
| position_feature   | position and feature     | n            | BatchNorm over flattened sentences   |
| position           | position                 | n, d         | BatchNorm with the position as C     |
| sequence           | sample                   | t, d         | LayerNorm over the whole sentence    |
| instance           | sample and feature       | t            | InstanceNorm1d                       |
| global             | everything               | n, t, d      | one scale for everything             |
"""

from normscope.statistics.accumulator import Accumulator
from normscope.statistics.moments import CoMoments, Likeness

# The views that a layer's own output is compared with, in the report's order.
COMPARED = ("feature", "position", "position_feature", "sequence", "instance", "global")
WITHOUT_POSITIONS = ("feature", "global")


def cells(moments: Accumulator, view: str) -> CoMoments:
    """Return the moments of a view that the table holds: (1, D), (T, 1), (T, D) or (1, 1)."""
    table = moments.table
    if view == "position_feature":
        return table
    if view == "position":
        return table.pool(1)
    by_feature = table.pool(0)
    return by_feature if view == "feature" else by_feature.pool(1)


def likeness(moments: Accumulator, view: str) -> Likeness:
    """Return sum(y z) and sum(z^2) over all tokens, with the layer's own y and the z of the view."""
    if view == "sequence":
        return moments.sequence_likeness
    if view == "instance":
        return moments.instance_likeness
    return Likeness.of(cells(moments, view), moments.eps)
