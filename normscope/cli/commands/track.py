"""`normscope track`: the layers of a training over its steps, and a gate on how far they moved."""

from pathlib import Path
from typing import Annotated

import typer

from normscope.cli.commands.compare import FailAbove, Top, is_crossed
from normscope.cli.option_groups import DataResultOptions, grouped
from normscope.cli.output import announce, warn
from normscope.cli.provenance import with_command
from normscope.cli.report_options import write_result

_CROSSED = 3
_PAGES = (".html", ".htm")

EPILOG = """\b
Examples:
  normscope track norms.jsonl
  normscope track norms.jsonl -o track.html
  normscope track norms.jsonl --fail-above bn_drift.mean=0.5 -q
  normscope track norms.jsonl --json | jq '.layers[] | {name, moved_at}'

FILE is what normscope.NormCallback(save="norms.jsonl") wrote beside a training: one layer of one measured
step a line. Each layer is compared with itself in the first window, as normscope compare does with two
reports; the layers that moved most come first. A layer has moved at the first step whose distance from the
first window is over twice the median distance of neighbouring windows, which is the noise of batches. With
an output that ends in .html the curves of all layers are a page, which needs the extra report.

--fail-above METRIC=VALUE makes the command a gate on the last window against the first: if the size of
METRIC is above VALUE in any layer, the exit code is 3, and standard error names these layers. The metrics
are those of normscope compare.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate was crossed."""

_File = Annotated[str, typer.Argument(metavar="FILE", help="The windows of a training, as JSON Lines.")]


@grouped
def track(file: _File, *, fail_above: FailAbove = None, top: Top = 20, result: DataResultOptions) -> None:
    """Show which layers moved over the steps of a training; with --fail-above, fail if it is too far."""
    destination = result.destination({"FILE": [file]})
    named_format = result.json or result.format is not None
    is_page = not named_format and Path(result.output or "").suffix.lower() in _PAGES
    format = result.chosen_format()
    from normscope.analyses.compare import Bound
    from normscope.analyses.training.track import track as run

    gates = [Bound.read(text) for text in fail_above or ()]
    announce(() if result.quiet else (file,))
    windows = with_command(run(file))
    if is_page:
        from normscope.render.page.track import track_page

        destination.write(track_page(windows))
    else:
        from normscope.render.track import render_track, render_track_markdown

        write_result(windows, format, destination, render_track, render_track_markdown, top=top)
    if not result.quiet:
        warn(windows.warnings, verbose=True)
    if is_crossed(gates, windows):
        raise typer.Exit(_CROSSED)
