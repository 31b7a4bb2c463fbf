"""`normscope explain`: every number of the reports, and the columns of a command's tables."""

from enum import Enum
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
  normscope explain agreement --format latex
  normscope explain --bibtex -o normscope.bib

\b
NAME is one of:
  a command             inspect, layers, batches, swap, why, compare or track:
                        what each column of its tables holds
  a path in the JSON    agreement.feature, run.padding_share, with or without
                        lists: .layers[0].token.mean
  a part of a path      agreement: its definition, and all numbers below it
  a column's title      LN mean, position explains, distance: all numbers
                        that a table shows under this title

Upper and lower case are the same in the name of a number, and so are spaces, - and _. No model is loaded.

--schema prints the JSON Schema (draft 2020-12) of a result instead. NAME is then report, plan, layers,
batches, swap, why, compare, track, explain or trajectory; without NAME, of all results.

For a paper: --format latex writes definitions with their formulas (amsmath) and \\cite, whose keys are those
of --bibtex.

Exit codes: 0 done, 1 failed, 2 wrong usage."""


class _Format(str, Enum):
    """The format of definitions."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    LATEX = "latex"


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


_Bibtex = Annotated[
    bool,
    typer.Option("--bibtex", help="Print the papers that define NAME, or all numbers, as BibTeX instead."),
]
_OutputFormat = Annotated[_Format | None, typer.Option("--format", help=options.FORMAT_HELP)]


def explain(
    metric: _Name = None,
    schema: Schema = False,
    bibtex: _Bibtex = False,
    format: _OutputFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
) -> None:
    """Explain a number of the reports, or all columns of a command's tables."""
    output_format = options.choose_format(_Format, format, json, output)
    destination = Output(output)
    destination.check()
    name = " ".join(metric) if metric else None
    if bibtex:
        if schema or format is not None or json:
            raise UsageError("--bibtex came with another format; expected one; drop one of them")
        from normscope.results.glossary.citation import bibtex as bibliography

        destination.write(bibliography(_entries(name)))
        return
    options.warn_of_suffix(_Format.JSON if schema else output_format, output)
    destination.write(
        _schema(name, output_format) if schema else _explanation(name, output_format, destination)
    )


def _schema(name: str | None, format: _Format) -> str:
    if format in (_Format.MARKDOWN, _Format.LATEX):
        raise UsageError(
            f"--schema came with the format {format.value}; expected JSON; drop one, or name another file"
        )
    from normscope.results.atomic_write import write_json
    from normscope.results.json_schema import json_schema

    return write_json(json_schema(name), None, 2)


def _explanation(name: str | None, format: _Format, destination: Output) -> str:
    """Return the list of all numbers, the columns of a command's tables, or the entries of one name."""
    if format is _Format.JSON:
        from normscope.results.glossary.entry import Glossary

        return destination.json(Glossary(_entries(name)))
    if format is _Format.LATEX:
        from normscope.render.latex import render_latex

        return render_latex(_entries(name))
    from normscope.render import explain as render
    from normscope.results.glossary.lookup import COMMANDS, children, find_entries

    if name is None:
        table, markdown = render.render_glossary, render.render_glossary_markdown
    elif name in COMMANDS:
        table = partial(render.render_columns, name)
        markdown = partial(render.render_columns_markdown, name)
    else:
        first = find_entries(name)
        below = [entry for entry in children(first[0]) if entry not in first]
        table = partial(render.render_entries, first, below)
        markdown = partial(render.render_entries_markdown, first, below)
    return markdown() if format is _Format.MARKDOWN else table(screen=destination.screen())


def _entries(name: str | None) -> "tuple[Entry, ...]":
    """Return all entries, those of the columns of a command's tables, or those of a name and below it."""
    from normscope.results.glossary.lookup import COMMANDS, ENTRIES, children, columns, find_entries

    if name is None:
        return tuple(ENTRIES.values())
    if name in COMMANDS:
        return tuple(chain(*columns(name).values()))
    first = find_entries(name)
    return (*first, *(entry for entry in children(first[0]) if entry not in first))
