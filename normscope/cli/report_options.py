"""Options that choose the formats and files of a report."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normscope.cli import options
from normscope.cli.destinations import PathsByOption, checked_output
from normscope.cli.interruption import finish_writing
from normscope.cli.output import Output, Writable
from normscope.cli.provenance import say_notes, with_command
from normscope.errors import ReportError
from normscope.escaping import printable

if TYPE_CHECKING:
    from normscope.results.inspect import Report


class ListedLayers(str, Enum):
    """The layers that have a row in the table."""

    FEW = "few"
    ALL = "all"


Details = Annotated[
    bool,
    typer.Option(
        "--details",
        help="Add numbers by position and feature of the layer least like BN, and outliers, also to --plot.",
    ),
]
Depth = Annotated[
    bool, typer.Option("--depth", help="Add the residual stream along the blocks: size, growth, outliers.")
]
LayerRows = Annotated[
    ListedLayers,
    typer.Option("--layers", help="Of over 13 layers, list a few of each group, or all."),
]


def as_data(result: Writable, format: options.DataFormat, destination: Output) -> str | Iterable[str]:
    """Return a result for programs: JSON, JSON Lines of its layers or claims, or CSV of their numbers."""
    if format is options.DataFormat.JSON:
        return destination.json(result)
    from normscope.results.tidy import csv_lines, json_lines

    if format is options.DataFormat.JSONL:
        return json_lines(result)
    lines = csv_lines(result)
    # CSV has no escapes of its own: a terminal would obey control characters, which a file keeps.
    return (printable(line.rstrip("\n")) + "\n" for line in lines) if destination.is_terminal else lines


def write_result(
    result: Writable,
    format: options.DataFormat,
    destination: Output,
    table: Callable[..., str],
    markdown: Callable[..., str],
    **shown: Any,
) -> None:
    """Write a result as data, or as `table` or `markdown` renders it with what is `shown`."""
    if format.is_data:
        destination.write(as_data(result, format, destination))
    else:
        destination.write(destination.text(result, format, table, markdown, **shown))


@dataclass(frozen=True)
class ReportOptions:
    """The formats and the files of a report."""

    details: Details = False
    depth: Depth = False
    rows: LayerRows = ListedLayers.FEW
    top: options.Top = 10
    format: options.OutputDataFormat = None
    json: options.Json = False
    plot: options.Plot = False
    output: options.OutputPath = None
    moments: options.MomentsPath = None
    tensors: options.TensorsPath = None
    quiet: options.Quiet = False
    verbose: options.Verbose = False

    def check(self, reads: PathsByOption, writes: PathsByOption | None = None) -> None:
        """Raise ReportError or UsageError for files that cannot be written; see `checked_output`."""
        Output(self.moments).check_file("--moments")
        Output(self.tensors).check_file("--tensors")
        own = {"--moments": [self.moments], "--tensors": [self.tensors]}
        checked_output(self.output, reads, {**own, **(writes or {})})
        if not self.quiet:
            options.warn_of_suffix(self.chosen_format(), self.output, plot=self.plot)

    @property
    def destination(self) -> Output:
        """The destination of the report itself."""
        return Output(self.output)

    def chosen_format(self) -> options.DataFormat:
        """Return the format; UsageError for options that contradict each other."""
        return options.choose_format(options.DataFormat, self.format, self.json, self.output, plot=self.plot)

    def write(self, report: "Report", layers: Sequence[str]) -> None:
        """Write the requested files, the report with those layers in detail, and its warnings.

        If one of them cannot be written, the others are, and ReportError is raised at the end.
        """
        report, failures = with_command(report), []
        with finish_writing():
            for write in (
                self._write_moments,
                self._write_tensors,
                partial(self._write_report, layers=layers),
            ):
                try:
                    write(report)
                except ReportError as error:
                    failures.append(str(error))
        say_notes(report, quiet=self.quiet, verbose=self.verbose)
        if failures:
            raise ReportError("; ".join(failures))

    def _write_moments(self, report: "Report") -> None:
        if self.moments:
            from normscope.statistics.moments_file import write_moments

            write_moments(report, self.moments)

    def _write_tensors(self, report: "Report") -> None:
        if self.tensors:
            from normscope.statistics.position_tables_file import write_tensors

            write_tensors(report, self.tensors)

    def _write_report(self, report: "Report", layers: Sequence[str]) -> None:
        if layers and self.chosen_format().is_data:
            report = replace(report, layers={name: report.layers[name] for name in layers})
        self.destination.write(self._rendered(report, layers))

    def _rendered(self, report: "Report", layers: Sequence[str]) -> str | Iterable[str]:
        """Return the report as text, or in pieces where it may be long."""
        format = self.chosen_format()
        if format.is_data:
            return as_data(report, format, self.destination)
        if self.plot:
            from normscope.render.plots import render_plots

            return render_plots(
                report,
                layers=layers,
                tables=self.top if self.details else 0,
                screen=self.destination.screen(),
            )
        if format is options.DataFormat.MARKDOWN:
            from normscope.render.inspect import render_report_markdown

            return render_report_markdown(report, **self._shown(layers))
        from normscope.render.inspect import render_report

        every, screen = self.rows is ListedLayers.ALL, self.destination.screen()
        return render_report(report, **self._shown(layers), every_layer=every, screen=screen)

    def _shown(self, layers: Sequence[str]) -> dict[str, Any]:
        """Return which parts of the report its tables have."""
        return {
            "layers": layers,
            "top": self.top,
            "detailed": self.details,
            "depth": self.depth,
            "verbose": self.verbose,
        }


def names_of(report: "Report", modules: Collection[str]) -> list[str]:
    """Return the names that the layers of some modules have in a report, in its order."""
    return [name for name, layer in report.layers.items() if layer.module_name in modules]
