"""`normscope explain`: every number of the reports, and the columns of a command's tables."""

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import completion, options
from normscope.cli.output import Output
from normscope.errors import UsageError

if TYPE_CHECKING:
    from normscope.results.glossary.entry import Entry

EPILOG = """\b
Examples:
  normscope explain inspect
  normscope explain agreement.feature
  normscope explain BN variance
  normscope explain --json | jq -r '.entries[] | [.name, .formula] | @tsv'
  normscope explain
  normscope explain agreement --format markdown
  normscope explain --schema report

\b
NAME is one of:
  a command             inspect, layers, batches, swap, why or compare: what
                        each column of its tables holds
  a path in the JSON    agreement.feature, run.padding_share, with or without
                        lists: .layers[0].token.mean
  a part of a path      agreement: its definition, and all numbers below it
  a column's title      LN mean, position explains, distance: all numbers
                        that a table shows under this title

Upper and lower case are the same in the name of a number, and so are spaces, - and _. No model is loaded.

--schema prints the JSON Schema (draft 2020-12) of a result instead. NAME is then report, plan, layers,
batches, swap, why, compare or explain; without NAME, the schemas of all are printed.

Exit codes: 0 done, 1 failed, 2 wrong usage."""

_Name = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="A command, a path in the JSON, or the title of a column; without NAME, all numbers are listed.",
        autocompletion=completion.numbers,
    ),
]


Schema = Annotated[
    bool,
    typer.Option("--schema", help="Print the JSON Schema of the result NAME instead: report, batches, ..."),
]


def explain(
    metric: _Name = None,
    schema: Schema = False,
    format: options.OutputFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
) -> None:
    """Explain a number of the reports, or all columns of a command's tables."""
    output_format = options.choose_format(options.Format, format, json, output)
    destination = Output(output)
    destination.check()
    options.warn_of_suffix(options.Format.JSON if schema else output_format, output)
    name = " ".join(metric) if metric else None
    destination.write(
        _schema(name, output_format) if schema else _explanation(name, output_format, destination)
    )


def _schema(name: str | None, format: options.Format) -> str:
    if format is options.Format.MARKDOWN:
        raise UsageError(
            "--schema came with the format markdown; expected JSON; drop one, or name another file"
        )
    from normscope.results.atomic_write import write_json
    from normscope.results.json_schema import json_schema

    return write_json(json_schema(name), None, 2)


def _explanation(name: str | None, format: options.Format, destination: Output) -> str:
    """Return the list of all numbers, the columns of a command's tables, or the entries of one name."""
    from normscope.render import explain as render
    from normscope.results.glossary.entry import Glossary
    from normscope.results.glossary.lookup import COMMANDS, ENTRIES, children, columns, find_entries

    if name is None:
        entries: Iterable[Entry] = ENTRIES.values()
        table, markdown = render.render_glossary, render.render_glossary_markdown
    elif name in COMMANDS:
        entries = chain(*columns(name).values())
        table = partial(render.render_columns, name)
        markdown = partial(render.render_columns_markdown, name)
    else:
        first = find_entries(name)
        below = [entry for entry in children(first[0]) if entry not in first]
        entries = (*first, *below)
        table = partial(render.render_entries, first, below)
        markdown = partial(render.render_entries_markdown, first, below)
    glossary = Glossary(tuple(entries))
    if format is options.Format.JSON:
        return destination.json(glossary)
    return markdown() if format is options.Format.MARKDOWN else table(screen=destination.screen())
