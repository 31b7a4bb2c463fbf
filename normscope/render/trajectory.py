"""A trajectory over revisions of a model as a table, for a terminal or in Markdown."""

import math

from normscope.escaping import counted, printable
from normscope.render.glyphs import UNICODE, Glyphs
from normscope.render.grid import Column, Grid
from normscope.render.markdown import join_facts, markdown_table
from normscope.render.numbers import UNKNOWN, aligned
from normscope.render.summary import headline, workload
from normscope.render.terminal import Screen, draw_grid, flow, render_parts
from normscope.results.trajectory import RevisionPoint, Trajectory

_BAR = 4
_COMMIT = 7  # characters, as git abbreviates it


def render_trajectory(trajectory: Trajectory, *, screen: Screen = Screen()) -> str:
    """Return the table of the revisions, as text with line ends."""
    head = flow(facts(trajectory), screen, "bold")
    return render_parts([head, *draw_grid(revisions(trajectory, screen.glyphs), screen)], screen)


def render_trajectory_markdown(trajectory: Trajectory) -> str:
    """Return what `render_trajectory` shows as GitHub-flavoured Markdown: every column, no name cut."""
    grid = revisions(trajectory, UNICODE)
    return "\n\n".join([f"## {join_facts(facts(trajectory))}", *markdown_table(grid)]) + "\n"


def facts(trajectory: Trajectory) -> list[str]:
    """Return the facts that are those of every revision."""
    report = trajectory.reports[0]
    return [*headline(report)[:2], *workload(report)[:2]]


def same_weights(trajectory: Trajectory) -> list[str]:
    """Return a sentence for each revision whose weights equal those of an earlier one."""
    pairs = [(point.revision, point.same_weights_as) for point in trajectory.points if point.same_weights_as]
    return [f"The weights of {printable(a)} equal those of {printable(b)}, bit by bit." for a, b in pairs]


def revisions(trajectory: Trajectory, glyphs: Glyphs) -> Grid:
    """Return the table of the revisions, in their order."""
    points = trajectory.points
    moved = [point.bn_drift.mean for point in points]
    maximum = max((value for value in moved if value >= 0), default=0.0)
    shares = [value / maximum if maximum else 0.0 for value in moved]
    same = [printable(point.same_weights_as or UNKNOWN) for point in points]
    columns = [
        Column("revision", "", [printable(point.revision) for point in points]),
        Column("commit", "", [(point.commit or UNKNOWN)[:_COMMIT] for point in points], rank=4),
        Column("agreement", "with BN", aligned(point.agreement["feature"] for point in points), "bn"),
        Column("input", "largest", aligned(point.extremes.input.value for point in points)),
        Column("output", "largest", aligned(map(_output, points)), rank=3),
        Column("headroom", "float16", aligned(point.extremes.headroom for point in points), rank=3),
        Column("BN mean", "moved by", glyphs.bars_after(aligned(moved), shares, _BAR), "bn"),
        Column("BN sd", "moved by", aligned(point.bn_drift.variance for point in points), "bn"),
        Column("LN mean", "moved by", aligned((p.ln_drift.mean for p in points), 2), "ln", rank=2),
        Column("LN variance", "moved by", aligned((p.ln_drift.variance for p in points), 2), "ln", rank=1),
        *([Column("same weights", "as", same)] if any(p.same_weights_as for p in points) else []),
    ]
    layers = counted(len(points[0].layers), "normalization layer")
    heading = f"{counted(len(points), 'revision')}, medians over {layers}"
    return Grid(heading, columns, _NOTES)


def _output(point: RevisionPoint) -> float:
    return math.nan if point.extremes.output is None else point.extremes.output.value


_NOTES = [
    "largest: the maximum of |value|. headroom: how often it fits below 65504.",
    "moved by: from the first revision, as in normscope compare.",
    "--json and --format csv have every layer, --json a report of each revision.",
]
