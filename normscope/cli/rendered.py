"""A report in the format that was asked for, alike for the commands that make one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from normscope.cli import options
from normscope.cli.streams import Output, Result

if TYPE_CHECKING:
    from normscope.report import Report


class Layered(Result, Protocol):
    """A result that has layers, in order."""

    @property
    def layers(self) -> Mapping[str, Any]:
        """The layers by name."""


def as_data(result: Layered, format: options.DataFormat, place: Output) -> str | Iterable[str]:
    """Return a result for programs: JSON, JSON Lines of its layers, or CSV of their numbers."""
    if format is options.DataFormat.JSON:
        return place.json(result)
    from normscope.tidy import csv_lines, json_lines

    return (csv_lines if format is options.DataFormat.CSV else json_lines)(result.layers)


def write_files(report: "Report", moments: str | None, tensors: str | None) -> None:
    """Write the files that were asked for beside the result."""
    if moments:
        from normscope.moments_file import write_moments

        write_moments(report, moments)
    if tensors:
        from normscope.tensors_file import write_tensors

        write_tensors(report, tensors)


@dataclass(frozen=True)
class Showing:
    """How a report is shown: its format, the layers in detail, the rows of those, how much, drawn or not."""

    format: options.DataFormat
    layers: Sequence[str] = ()
    top: int = 10
    verbose: bool = False
    plot: bool = False


def rendered(report: "Report", showing: Showing, place: Output) -> str | Iterable[str]:
    """Return the report as text for its place, or piece by piece where it may be long."""
    if showing.format.is_data:
        return as_data(report, showing.format, place)
    shown, top, verbose = showing.layers, showing.top, showing.verbose
    if showing.plot:
        from normscope.render.plots import render_plots

        return render_plots(report, layers=shown, screen=place.screen())
    if showing.format is options.DataFormat.MARKDOWN:
        from normscope.render.markdown import render_markdown

        return render_markdown(report, layers=shown, top=top, verbose=verbose)
    from normscope.render.tables import render_report

    return render_report(report, layers=shown, top=top, verbose=verbose, screen=place.screen())
