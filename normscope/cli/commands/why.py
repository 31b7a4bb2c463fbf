"""`normscope why`: the article's claims on LayerNorm and BatchNorm, tried on this model."""

from typing import TYPE_CHECKING

from normscope.cli import options
from normscope.cli.option_groups import BatchOptions, LoadOptions, ResultOptions, grouped
from normscope.cli.output import Output, reserve_stdout, warn
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.text_options import TextOptions, readable_texts

if TYPE_CHECKING:
    from normscope.results.why import WhyReport

EPILOG = """\b
Examples:
  normscope why demo
  normscope why gpt2 -f corpus.txt --max-length 128
  normscope why bert-base-uncased -f corpus.txt --samples 2000
  normscope why demo --json | jq -r '.claims[] | [.id, .verdict] | @tsv'

\b
A well-known article asks why NLP uses LayerNorm and not BatchNorm. Here each
of its claims is tried on the model and the texts: what it says; two or three
numbers; the rule; and the verdict. > marks the number that decides. The claim
HOLDS when the number's 95% interval is on its side of the rule's threshold,
FAILS when it is on the other, and is UNDECIDED when the threshold is within.
What one language model cannot decide is NOT TESTABLE HERE.

\b
Numbers are medians over the layers. Intervals are by the bootstrap over
texts, or over batches where a number is about batches, seeded. The tokens of
at most --samples texts are kept, chosen by chance, as many as fit
--table-memory. Few texts leave most claims undecided: a few hundred are
better.

\b
  1a    positions that few texts reach
  1b    batches of texts of like length, against random ones
  2     what the position explains of the variance (epsilon squared), without
        special tokens: [CLS] and separators would carry most of it
  3     what the text explains, against what the position does
  4     the mean of each text's vectors, as the layer's own normalization
        gives them, after scaling within the text, and after BatchNorm:
        correlation of the cosines of all pairs of texts with those of the
        layer's own, layer by layer, each with the input that it really has
  6     how far the mean of a batch is from that of all texts (TID), in units
        of what as many independent tokens would give

\b
The table at the end has a text a row and a position a column: a column is
what BatchNorm over flattened texts takes for one feature.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


@grouped
def why(
    model: options.Model,
    *,
    corpus: TextOptions,
    seed: options.Seed = 0,
    samples: options.Samples = 512,
    table_memory: options.TableMemory = "1GiB",
    batch: BatchOptions,
    exclude: options.Exclude = None,
    layer: options.OnlyLayer = None,
    result: ResultOptions,
    source: LoadOptions,
) -> None:
    """Try the article's claims on LayerNorm and BatchNorm on this model."""
    from normscope.data.batch_sampling import Drawing

    place = result.destination(corpus.paths(model))
    loading = source.loading()
    batching = batch.batching()
    room = options.memory(table_memory)
    # What cannot be is refused before the model is loaded.
    Drawing(seed=seed, samples=samples, table_memory=room)
    format = result.chosen_format()
    texts = corpus.feed(token=source.token, quiet=result.quiet, local=source.local_files_only)
    with reserve_stdout(), ProgressBar(model, shown=wanted(result.quiet)) as progress:
        from normscope.analyses.why.analysis import why as run
        from normscope.models.loading import load

        loaded = load(model, loading)
        report = run(
            loaded,
            readable_texts(texts, loaded),
            batching=batching,
            samples=samples,
            table_memory=room,
            seed=seed,
            layers=layer or (),
            exclude=exclude or (),
            progress=progress,
        )
    place.write(_rendered(report, format, place))
    if not result.quiet:
        warn(report.warnings, verbose=False)


def _rendered(report: "WhyReport", format: options.Format, place: Output) -> str:
    if format is options.Format.JSON:
        return place.json(report)
    from normscope.render.why import render_why, render_why_markdown

    if format is options.Format.MARKDOWN:
        return render_why_markdown(report)
    return render_why(report, screen=place.screen())
