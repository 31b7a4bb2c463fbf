"""`normscope report`: saved results as a page, or one chart as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from normscope.cli import completion, options
from normscope.cli.destinations import checked_output
from normscope.cli.interruption import finish_writing
from normscope.cli.output import Output, announce
from normscope.errors import UsageError
from normscope.escaping import quoted

EPILOG = """\b
Examples:
  normscope report inspect.json -o page.html
  normscope report inspect.json batches.json why.json swap.json -o page.html
  normscope report inspect.json --chart features -o features.svg
  normscope report inspect.json --chart scatter --layer '*.3.*' -o a.png
  normscope report bert.json gpt2.json compared.json -o both.html
  normscope report trajectory.json -o revisions.html

A FILE is a result that inspect, batches, why, swap or compare wrote with --json, or that inspect or merge
wrote with --moments. The page is one HTML file that loads nothing. It has the findings in words, charts
(each with a table of its numbers), and a choice of layer. It is made for light and dark screens, for print
and for screen readers.

Results of one model (id, revision, commit, class, dtype, parameters) share a part of the page. Another
model, or a second result of one command, begins a new part, and so does a trajectory over
revisions. Comparisons come last.

\b
The charts, and the result that each shows:
  agreement, explained   all layers (inspect)
  depth                  the residual stream along the blocks (inspect)
  noise                  all layers, batches of 8 texts (batches)
  damage                 all layers, replaced one at a time (swap)
  positions, features    heat maps by layer (inspect)
  scatter, profile       features and positions of one layer (inspect)
  curve                  output against input of one layer (inspect --curve)
  sizes                  batches of each size, one layer (batches)
  outliers               features that recur as outliers (inspect)
  movers                 layers that moved most (compare)
  agreements, extremes, drifts
                         all layers over revisions (inspect --revision a,b,c)

Pages and charts need an extra: pip install '.[report]' in a clone.

Exit codes: 0 done, 1 failed, 2 wrong usage."""

_Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE", help="Results that were saved as JSON, or reports with moments."),
]
Chart = Annotated[
    str | None,
    typer.Option(
        "--chart",
        metavar="NAME",
        help="Draw only this chart, as .svg or .png; --help-all names the charts.",
        autocompletion=completion.charts,
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="GLOB",
        help="The layer to show first; the default is the one that is least like BN.",
        autocompletion=completion.layers,
    ),
]
_PAGES, _PICTURES = (".html", ".htm"), (".svg", ".png")


def report(
    file: _Files,
    chart: Chart = None,
    layer: Layer = None,
    output: options.OutputPath = None,
) -> None:
    """Make a page of saved results, or a picture of one chart."""
    destination = checked_output(output, {"FILE": file})
    suffix = _suffix(destination, chart)
    from normscope.render.page import write as pages

    announce(file)
    if suffix == ".html":
        destination.write(pages.page(file, layer))
        return
    picture = pages.picture(file, chart or "", "png" if suffix == ".png" else "svg", layer)
    if isinstance(picture, str):
        destination.write(picture)
        return
    from normscope.results.atomic_write import write_with

    with finish_writing():
        write_with(output or "", lambda path: path.write_bytes(picture))


def _suffix(destination: Output, chart: str | None) -> str:
    """Return the suffix of what to write, by the output's name; standard output gets a page, or an SVG."""
    suffixes = _PICTURES if chart else _PAGES
    if not destination.is_file:
        if destination.path is None and destination.is_terminal:
            name = f"-o {chart}.svg" if chart else "-o page.html"
            raise UsageError(
                f"standard output is a terminal; expected a file or a pipe; name one with {name}"
            )
        return ".svg" if chart else ".html"
    suffix = Path(destination.path or "").suffix.lower()
    if suffix in suffixes:
        return ".html" if suffix in _PAGES else suffix
    next_step = "add --chart NAME" if suffix in _PICTURES else "change its name"
    expected = " or ".join(suffixes)
    thing = "a chart" if chart else "a page"
    raise UsageError(f"--output is {quoted(destination.path)}; expected {expected} for {thing}; {next_step}")
