"""`normscope explain`: the definition, formula and source of every number of the reports."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from normscope.cli import completion, options
from normscope.cli.output import Output
from normscope.errors import UsageError

if TYPE_CHECKING:
    from normscope.results.glossary.entry import Entry

EPILOG = """\b
Examples:
  normscope explain
  normscope explain agreement.feature
  normscope explain BN variance
  normscope explain agreement --format markdown
  normscope explain --schema report
  normscope explain --json | jq -r '.entries[] | [.name, .formula] | @tsv'

\b
METRIC is one of:
  a path in the JSON    agreement.feature, run.padding_share, with or without
                        lists: .layers[0].token.mean
  a part of a path      agreement: its definition, and all numbers below it
  a column's title      LN mean, position explains, distance: all numbers
                        that a table shows under this title

\b
Upper and lower case are the same, and so are spaces, - and _. No model is
loaded.

\b
--schema prints a JSON Schema (draft 2020-12) instead, of the result that
METRIC names: report, plan, layers, batches, swap, why, compare or explain;
without METRIC, of all.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage."""

_Metric = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="METRIC",
        help="A path in the JSON, or a column's title; without it, all.",
        autocompletion=completion.numbers,
    ),
]


Schema = Annotated[
    bool, typer.Option("--schema", help="Print the JSON Schema of what METRIC names: report, ...")
]


def explain(
    metric: _Metric = None,
    schema: Schema = False,
    format: options.OutputFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
) -> None:
    """Say what a number of the reports is: definition, formula, range, source."""
    from normscope.results.glossary.lookup import ENTRIES, children, find_entries

    output_format = options.choose_format(options.Format, format, json, output)
    destination = Output(output)
    destination.check()
    options.warn_of_suffix(options.Format.JSON if schema else output_format, output)
    if schema:
        destination.write(_schema(" ".join(metric) if metric else None, output_format))
        return
    entries = find_entries(" ".join(metric)) if metric else tuple(ENTRIES.values())
    below = children(entries[0]) if metric else ()
    below = tuple(entry for entry in below if entry not in entries)
    destination.write(_rendered(entries, below, output_format, destination, listed=not metric))


def _schema(name: str | None, format: options.Format) -> str:
    if format is options.Format.MARKDOWN:
        raise UsageError(
            "--schema came with the format markdown; expected JSON; drop one, or name another file"
        )
    from normscope.results.atomic_write import write_json
    from normscope.results.json_schema import json_schema

    return write_json(json_schema(name), None, 2)


def _rendered(
    entries: "tuple[Entry, ...]",
    below: "tuple[Entry, ...]",
    format: options.Format,
    destination: Output,
    *,
    listed: bool,
) -> str:
    if format is options.Format.JSON:
        from normscope.results.glossary.entry import Glossary

        glossary: Any = Glossary((*entries, *below))
        return destination.json(glossary)
    from normscope.render import explain as render

    if format is options.Format.MARKDOWN:
        return render.render_glossary_markdown() if listed else render.render_entries_markdown(entries, below)
    return (
        render.render_glossary(destination.screen())
        if listed
        else render.render_entries(entries, below, destination.screen())
    )
