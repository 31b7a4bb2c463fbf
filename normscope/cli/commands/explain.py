"""`normscope explain`: the definition, formula and source of every number in the reports."""

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
  a path in the JSON    agreement.feature, run.padding_share; the lists on the
                        way may stay: .layers[0].token.mean
  a part of one         agreement: what it is, and all numbers below it
  a column's title      LN mean, position explains, distance: all numbers
                        that a table shows under this title

\b
Upper and lower case, and spaces, - and _, are alike. No model is loaded.

\b
--schema prints a JSON Schema (draft 2020-12) instead, and METRIC is what is
written: report, plan, layers, batches, swap, why, compare or
explain; without it, all.

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
    from normscope.results.glossary.lookup import ENTRIES, children, found

    written = options.chosen(options.Format, format, json, output)
    place = Output(output)
    place.check()
    options.tell_suffix(options.Format.JSON if schema else written, output)
    if schema:
        place.write(_schema(" ".join(metric) if metric else None, written))
        return
    entries = found(" ".join(metric)) if metric else tuple(ENTRIES.values())
    below = children(entries[0]) if metric else ()
    below = tuple(entry for entry in below if entry not in entries)
    place.write(_rendered(entries, below, written, place, listed=not metric))


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
    place: Output,
    *,
    listed: bool,
) -> str:
    if format is options.Format.JSON:
        from normscope.results.glossary.entry import Glossary

        anything: Any = Glossary((*entries, *below))
        return place.json(anything)
    from normscope.render import explain as render

    if format is options.Format.MARKDOWN:
        return render.render_glossary_markdown() if listed else render.render_entries_markdown(entries, below)
    return (
        render.render_glossary(place.screen())
        if listed
        else render.render_entries(entries, below, place.screen())
    )
