"""The windows of a training as tables of layers and curves, for a terminal or in Markdown."""

from collections.abc import Callable
from statistics import median

import numpy as np

from normscope.escaping import counted, grouped, printable
from normscope.render.curves import Curve, curve_grid
from normscope.render.glyphs import UNICODE, Glyphs
from normscope.render.grid import Column, Grid, Section
from normscope.render.markdown import join_facts, markdown_table
from normscope.render.numbers import align, aligned
from normscope.render.terminal import Screen, render_sections
from normscope.results.common import Floats
from normscope.results.track import LayerTrack, OverSteps, Track

_SPARK = 10
# The numbers over steps, by the names of their fields.
CURVES: dict[str, Callable[[OverSteps], Floats]] = {
    "BN mean moved by": lambda over: over.drift_mean,
    "BN sd moved by": lambda over: over.drift_variance,
    "LN variance": lambda over: over.ln_variance,
    "agreement with BN": lambda over: over.bn_agreement,
    "BN gap, mean": lambda over: over.bn_gap_mean,
    "BN gap, sd": lambda over: over.bn_gap_variance,
    "input rms": lambda over: over.input_rms,
    "largest |input|": lambda over: over.largest_input,
}


def render_track(track: Track, *, top: int = 20, screen: Screen = Screen()) -> str:
    """Return the `top` layers that moved most, and the medians of all over steps, as text with line ends."""
    return render_sections([section(track, top, screen)], screen)


def render_track_markdown(track: Track, *, top: int = 20) -> str:
    """Return the table of `render_track` as GitHub-flavoured Markdown."""
    grid = movers(track, top, UNICODE)
    return "\n\n".join([f"## {join_facts(facts(track))}", *markdown_table(grid)]) + "\n"


def section(track: Track, top: int, screen: Screen) -> Section:
    """Return the facts about a track and its tables."""
    return Section([facts(track)], [movers(track, top, screen.glyphs), _medians(track, screen)])


def facts(track: Track) -> list[str]:
    """Return the facts about a track: its windows and its layers."""
    name = "training" if track.split == "train" else "evaluations"
    steps = f"steps {grouped(int(track.steps[0]))} to {grouped(int(track.steps[-1]))}"
    return [f"Track of a {name}" if name == "training" else f"Track of {name}",
            steps, counted(len(track.steps), "window"), counted(len(track.layers), "layer")]  # fmt: skip


def movers(track: Track, top: int, glyphs: Glyphs) -> Grid:
    """Return the table of the layers that moved most."""
    layers = list(track.layers.values())[:top]
    columns = [
        Column("layer", "", [layer.name for layer in layers], names=True),
        Column("BN mean", "moved by", _course(layers, lambda x: x.drift_mean, glyphs), "bn"),
        Column("BN sd", "moved by", aligned(layer.bn_drift.variance for layer in layers), "bn"),
        Column("moved", "at step", align(_step(layer.moved_at) for layer in layers)),
        Column("LN variance", "last", _course(layers, lambda x: x.ln_variance, glyphs), "ln", rank=1),
        Column("agreement", "last", _course(layers, lambda x: x.bn_agreement, glyphs), rank=2),
    ]
    few = f", the {len(layers)} that moved most" if len(layers) < len(track.layers) else ", most moved first"
    return Grid(f"{counted(len(track.layers), 'normalization layer')}{few}", columns, _notes(track))


def _course(layers: list[LayerTrack], read: Callable[[OverSteps], Floats], glyphs: Glyphs) -> list[str]:
    """Return the last number of each layer, with its course over steps."""
    courses = [read(layer.over_steps) for layer in layers]
    numbers = aligned((float(values[-1]) for values in courses), 3)
    pairs = zip(numbers, courses, strict=True)
    return [f"{number} {glyphs.spark(values, _SPARK)}".rstrip() for number, values in pairs]


def _step(step: int | None) -> str:
    return "" if step is None else grouped(step)


def _notes(track: Track) -> list[str]:
    moved = {layer.name: layer.moved_at for layer in track.layers.values() if layer.moved_at is not None}
    lines = [
        "moved by: the last window from the first, as in normscope compare.",
        "at step: the first whose distance is over twice the median of neighbours:",
        "more than the noise of batches. The small curves are over steps.",
    ]
    if not moved:
        return [*lines, "No layer moved by more than the noise of batches."]
    step = min(moved.values())
    first = [printable(name) for name, at in moved.items() if at == step]
    more = f" and {len(first) - 1} more" if len(first) > 1 else ""
    return [*lines, f"First to move: {first[0]}{more}, at step {grouped(step)}."]


def _medians(track: Track, screen: Screen) -> Grid:
    """Return the median over layers of each number, as curves over steps."""
    layers = [layer.over_steps for layer in track.layers.values()]
    curves = [Curve(name, medians([read(over) for over in layers])) for name, read in CURVES.items()]
    notes = ["The median over layers of each number."]
    return curve_grid("Over steps", curves, "step", screen, notes, track.steps.tolist())


def medians(courses: list[Floats]) -> Floats:
    """Return the median of (layers, W) at each window, NaN where no layer has a number."""
    columns = [[x for x in column if np.isfinite(x)] for column in np.array(courses).T]
    return np.array([median(column) if column else np.nan for column in columns])
