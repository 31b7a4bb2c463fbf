"""`normscope layers`: list a model's normalization layers from its configuration alone."""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import options
from normscope.cli.option_groups import FetchOptions, OutlineFormat, OutlineOptions, grouped
from normscope.cli.output import Output, reserve_stdout, say
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import LayerRows, ListedLayers
from normscope.escaping import counted

if TYPE_CHECKING:
    from normscope.results.layers import Outline

EPILOG = """\b
Examples:
  normscope layers demo
  normscope layers gpt2 --verbose
  normscope layers meta-llama/Llama-3.1-70B --layer "*.0.*"
  normscope layers gpt2 --readers
  normscope layers gpt2 --json | jq -r '.layers[] | [.name, .place] | @tsv'
  normscope layers gpt2 --format mappings -o mappings.json

Only config.json is read or downloaded: no weights and no tokenizer.

Values that all layers share are above the table. The globs of --layer and --exclude match the names in the
table, here and in inspect. The kind of a layer is found by calling one layer of each class with random
values, or else by the name of its class. A wide terminal, or --verbose, shows the Python class of each
layer.

\b
The place of a layer follows from the model's structure and its Python code,
not only from names:
  embeddings  called before the repeated blocks
  pre-norm    in a block that computes x + f(norm(x))
  post-norm   in a block that computes norm(x + f(x)) or x + norm(f(x))
  per-head    in attention, as wide as one head (mostly of queries or keys)
  final       called after the repeated blocks
  head        in a part on top of the base model
  other       none of these is found

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

Layer = Annotated[list[str] | None, options.globs("--layer", "List only these layers. Repeatable.")]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Do not list these layers. Repeatable.")
]
Readers = Annotated[
    bool, typer.Option("--readers", help="Find what reads each layer's output, without weights.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show full names, numbers and classes of the layers.")
]


@grouped
def layers(
    model: options.Model,
    *,
    layer: Layer = None,
    exclude: Exclude = None,
    readers: Readers = False,
    rows: LayerRows = ListedLayers.FEW,
    result: OutlineOptions,
    verbose: Verbose = False,
    source: FetchOptions,
) -> None:
    """List the normalization layers, from the configuration alone."""
    destination = result.destination({"MODEL": [model]})
    loading = source.loading()
    format = result.chosen_format()
    with reserve_stdout(), ProgressBar(model, shown=wanted(result.quiet)):
        from normscope.analyses.layers import list_layers

        readers = readers or format is OutlineFormat.MAPPINGS
        outline = list_layers(model, loading, layers=layer or (), exclude=exclude or (), readers=readers)
    outline = with_command(outline)
    if format is OutlineFormat.MAPPINGS:
        _write_mappings(outline, destination, quiet=result.quiet)
        return
    from normscope.render.layers import render_outline, render_outline_markdown

    # Layers that are named are all listed.
    table = partial(render_outline, every_layer=bool(layer) or rows is ListedLayers.ALL)
    destination.write(destination.text(outline, format, table, render_outline_markdown, verbose=verbose))
    say_notes(outline, quiet=result.quiet, verbose=verbose)


def _write_mappings(outline: "Outline", destination: Output, *, quiet: bool) -> None:
    mappings = outline.mappings()
    lines = ",\n".join(map(json.dumps, mappings))
    destination.write(f"[\n{lines}\n]\n" if lines else "[]\n")
    if not quiet and (left_out := len(outline.layers) - len(mappings)):
        say(f"{left_out} of {counted(len(outline.layers), 'layer')} left out; --readers says why")
