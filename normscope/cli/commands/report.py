"""`normscope report`: saved results as a page, or one chart as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from normscope.cli import completion, options
from normscope.cli.destinations import checked
from normscope.cli.interruption import finishing
from normscope.cli.output import Output, announce
from normscope.errors import UsageError
from normscope.escaping import quoted

EPILOG = """\b
Examples:
  normscope report inspect.json -o page.html
  normscope report inspect.json batches.json why.json swap.json -o page.html
  normscope report bert.json gpt2.json compared.json -o both.html
  normscope report inspect.json --chart features -o features.svg
  normscope report inspect.json --chart scatter --layer '*.3.*' -o a.png

\b
A FILE is what inspect, batches, why, swap or compare wrote with --json, or
inspect and merge with --moments. The page is one HTML file that loads
nothing: the findings in words, charts with a table of their numbers each, a
choice of layer, light and dark, for print and for screen readers.

\b
Results of one model (id, revision, commit, class, dtype, parameters) share a
part of the page. Another model, or a second result of one command, begins a
part of its own, and comparisons come last, so that nothing is mixed.

\b
The charts, and the result that each is drawn from:
  agreement, explained   all layers (inspect)
  noise                  all layers, batches of 8 texts (batches)
  damage                 all layers, replaced one at a time (swap)
  positions, features    heat maps by layer (inspect)
  scatter, profile       features and positions of one layer (inspect)
  sizes                  batches of each size, one layer (batches)
  outliers               features that recur as outliers (inspect)
  movers                 layers that moved most (compare)

\b
Needs the extra: pip install 'normscope[report]'.
Exit codes: 0 done, 1 failed, 2 wrong usage."""

_Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Results that were saved as JSON.")]
Chart = Annotated[
    str | None,
    typer.Option(
        "--chart",
        metavar="NAME",
        help="Draw this chart alone, as .svg or .png.",
        autocompletion=completion.charts,
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="GLOB",
        help="The layer shown first; by default the one least like BN.",
        autocompletion=completion.layers,
    ),
]
PAGES, PICTURES = (".html", ".htm"), (".svg", ".png")


def report(
    file: _Files,
    chart: Chart = None,
    layer: Layer = None,
    output: options.OutputPath = None,
) -> None:
    """Make a page of saved results, or a picture of one chart."""
    place = checked(output, {"FILE": file})
    kind = _kind(place, chart)
    from normscope.render.page import write as pages

    announce(file)
    if kind == ".html":
        place.write(pages.page(file, layer))
        return
    drawn = pages.picture(file, chart or "", "png" if kind == ".png" else "svg", layer)
    if isinstance(drawn, str):
        place.write(drawn)
        return
    from normscope.results.atomic_write import write_with

    with finishing():
        write_with(output or "", lambda path: path.write_bytes(drawn))


def _kind(place: Output, chart: str | None) -> str:
    """Tell by the name of the output what is to be made; standard output gets a page, or an SVG."""
    wanted = PICTURES if chart else PAGES
    if not place.is_file:
        if place.path is None and place.is_terminal:
            name = f"-o {chart}.svg" if chart else "-o page.html"
            raise UsageError(
                f"standard output is a terminal; expected a file or a pipe; name one with {name}"
            )
        return ".svg" if chart else ".html"
    suffix = Path(place.path or "").suffix.lower()
    if suffix in wanted:
        return ".html" if suffix in PAGES else suffix
    then = "add --chart NAME" if suffix in PICTURES else "change its name"
    expected = " or ".join(wanted)
    what = "a chart" if chart else "a page"
    raise UsageError(f"--output is {quoted(place.path)}; expected {expected} for {what}; {then}")
