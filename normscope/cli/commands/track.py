"""`normscope track`: the layers of a training over its steps, and a gate on how far they moved."""

from pathlib import Path
from typing import Annotated

import typer

from normscope.cli import options
from normscope.cli.commands.compare import FailAbove, Top, is_crossed
from normscope.cli.destinations import checked_output
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


def track(
    file: _File,
    fail_above: FailAbove = None,
    top: Top = 20,
    format: options.OutputDataFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
    quiet: options.Quiet = False,
) -> None:
    """Show which layers moved over the steps of a training; with --fail-above, fail if it is too far."""
    destination = checked_output(output, {"FILE": [file]})
    is_page = not json and format is None and Path(output or "").suffix.lower() in _PAGES
    output_format = options.choose_format(options.DataFormat, format, json, None if is_page else output)
    if not quiet and not is_page:
        options.warn_of_suffix(output_format, output)
    from normscope.analyses.compare import Bound
    from normscope.analyses.training.track import track as run

    gates = [Bound.read(text) for text in fail_above or ()]
    announce(() if quiet else (file,))
    result = with_command(run(file))
    if is_page:
        from normscope.render.page.track import track_page

        destination.write(track_page(result))
    else:
        from normscope.render.track import render_track, render_track_markdown

        write_result(result, output_format, destination, render_track, render_track_markdown, top=top)
    if not quiet:
        warn(result.warnings, verbose=True)
    if is_crossed(gates, result):
        raise typer.Exit(_CROSSED)
