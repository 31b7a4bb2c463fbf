"""A report in the format that was asked for, alike for the commands that make one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.cli import options
from normscope.cli.streams import Output

if TYPE_CHECKING:
    from normscope.report import Report


@dataclass(frozen=True)
class Showing:
    """How a report is to be shown: its format, the layers in detail, the rows of those, how much of each."""

    format: options.Format
    layers: Sequence[str] = ()
    top: int = 10
    verbose: bool = False


def rendered(report: "Report", showing: Showing, place: Output) -> str:
    """Return the report as text for its place."""
    if showing.format is options.Format.JSON:
        return place.json(report)
    shown, top, verbose = showing.layers, showing.top, showing.verbose
    if showing.format is options.Format.MARKDOWN:
        from normscope.render.markdown import render_markdown

        return render_markdown(report, layers=shown, top=top, verbose=verbose)
    from normscope.render.tables import render_report

    return render_report(report, layers=shown, top=top, verbose=verbose, screen=place.screen())
