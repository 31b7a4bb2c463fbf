"""`normscope layers`: list a model's normalization layers from its configuration alone."""

from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import options
from normscope.cli.option_groups import FetchOptions, ResultOptions, grouped
from normscope.cli.output import Output, data_alone
from normscope.cli.progress_bar import ProgressBar, wanted

if TYPE_CHECKING:
    from normscope.results.layers import Outline

EPILOG = """\b
Examples:
  normscope layers demo
  normscope layers meta-llama/Llama-3.1-70B --layer "*.0.*"
  normscope layers gpt2 --json | jq -r '.layers[] | [.name, .place] | @tsv'

\b
No weights and no tokenizer are read or downloaded: config.json is enough.

\b
What all layers share stands above the table. Layers have the names that
--layer and --exclude take, here and in inspect. The kind is as a call of one
such layer alone, filled at random, shows; else as its class says. The
layer's Python class is shown in a wide terminal, or with --verbose.

{columns}

\b
The place, by the model's structure and its Python code, not by names alone:
  embeddings  called before the repeated blocks
  pre-norm    in a block that computes x + f(norm(x))
  post-norm   in a block that computes norm(x + f(x)) or x + norm(f(x))
  per-head    in attention, as wide as one head (of queries or keys, mostly)
  final       called after the repeated blocks
  head        in what is put on top of the base model
  other       none of these can be seen

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

Layer = Annotated[list[str] | None, options.globs("--layer", "List only these layers. Repeatable.")]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Do not list these layers. Repeatable.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Full names, numbers and classes of the layers.")
]


@grouped
def layers(
    model: options.Model,
    *,
    layer: Layer = None,
    exclude: Exclude = None,
    result: ResultOptions,
    verbose: Verbose = False,
    source: FetchOptions,
) -> None:
    """List the normalization layers, from the configuration alone."""
    place = result.place({"MODEL": [model]})
    loading = source.loading()
    format = result.chosen()
    with data_alone(), ProgressBar(model, shown=wanted(result.quiet)):
        from normscope.analyses.layers import list_layers

        outline = list_layers(model, loading, layers=layer or (), exclude=exclude or ())
    place.write(_rendered(outline, format, place, verbose=verbose))


def _rendered(outline: "Outline", format: options.Format, place: Output, *, verbose: bool) -> str:
    if format is options.Format.JSON:
        return place.json(outline)
    from normscope.render.layers import render_outline, render_outline_markdown

    if format is options.Format.MARKDOWN:
        return render_outline_markdown(outline, verbose=verbose)
    return render_outline(outline, verbose=verbose, screen=place.screen())
