"""`normscope batches`: run texts once and show BatchNorm's statistics in batches of them."""

from typing import Annotated

import typer

from normscope.cli import options
from normscope.cli.option_groups import (
    CountedBatchOptions,
    DataResultOptions,
    LayerOptions,
    LoadOptions,
    grouped,
)
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import write_result
from normscope.cli.text_options import TextOptions, readable_texts

EPILOG = """\b
Examples:
  normscope batches demo
  normscope batches gpt2 -f corpus.txt --max-length 128 --sizes 8,32,128
  normscope batches demo -f corpus.txt --plot
  normscope batches demo -f corpus.txt --json | jq '.layers[0].sizes[0].tid'
  normscope batches bert-base-uncased -f corpus.txt --momentum 0.1

BatchNorm takes one mean and variance per feature, over all tokens of the batch that it is trained on. Here
the model runs once, and the statistics of single texts are kept. Batches of any size are then put together
from them: of random texts, of texts of similar length (as loaders make them to save padding), and in the
given order. Padding never counts. When there are more than --samples texts, a random choice of them is
kept. --batch-size and --order only say how the model is run: they change no number.

The first table has the noise of each layer's means. The next one, by batch size, is of one layer: the
noisiest, or those of --layer. --momentum adds BN's running statistics; they begin with the first batch, not
with PyTorch's 0 and 1, which a trained layer forgot long ago. What batches hold is the same at every layer.
--plot draws these numbers in place of the tables.

--format csv has one number in a row (layer, view, batch_size, order, position, statistic, value), jsonl has
one layer in a line.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

_Sizes = Annotated[
    str | None,
    typer.Option("--sizes", metavar="N,N", help="Texts per batch; the default is 2, 4, 8, ... up to 1024."),
]
Draws = Annotated[
    int, typer.Option("--draws", metavar="N", help="Put all texts into new random batches N times.")
]
_Momentum = Annotated[
    float | None,
    typer.Option("--momentum", metavar="M", help="Add BN's running statistics; PyTorch's default is 0.1."),
]


@grouped
def batches(
    model: options.Model,
    *,
    corpus: TextOptions,
    sizes: _Sizes = None,
    draws: Draws = 4,
    seed: options.Seed = 0,
    momentum: _Momentum = None,
    samples: options.Samples = 2048,
    table_memory: options.TableMemory = "1GiB",
    batch: CountedBatchOptions,
    layers: LayerOptions,
    top: options.Top = 10,
    result: DataResultOptions,
    plot: options.Plot = False,
    verbose: options.Verbose = False,
    source: LoadOptions,
) -> None:
    """Show what BatchNorm would see in batches of 2, 4, 8, ... texts."""
    from normscope.data.batch_sampling import Drawing

    place = result.destination(corpus.paths(model))
    loading = source.loading()
    batching = batch.batching(chat=corpus.chat_template)
    numbers = options.whole_numbers("--sizes", sizes)
    drawing = Drawing(numbers, draws, seed, momentum, samples, options.memory(table_memory))
    format = result.chosen_format(plot)
    texts = corpus.feed(token=source.token, quiet=result.quiet, local=source.local_files_only)
    with reserve_stdout(), ProgressBar(model, shown=wanted(result.quiet)) as progress:
        from normscope.analyses.batches import batch_noise
        from normscope.models.loading import load

        loaded = load(model, loading)
        shown = layers.detail_names(loaded)
        report = batch_noise(
            loaded,
            readable_texts(texts, loaded),
            batching=batching,
            drawing=drawing,
            **layers.selection(as_data=format.is_data),
            progress=progress,
        )
    report = with_command(report)
    if plot:
        from normscope.render.batch_plots import render_batch_plots

        place.write(render_batch_plots(report, layers=shown, screen=place.screen()))
    else:
        from normscope.render.batches import render_batches, render_batches_markdown

        write_result(report, format, place, render_batches, render_batches_markdown, layers=shown, top=top)
    say_notes(report, quiet=result.quiet, verbose=verbose)
