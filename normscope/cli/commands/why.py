"""`normscope why`: the article's claims on LayerNorm and BatchNorm, tested on this model."""

from dataclasses import replace
from functools import partial

from normscope.cli import options
from normscope.cli.option_groups import BatchOptions, DataResultOptions, LoadOptions, command_line, grouped
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import write_result
from normscope.cli.text_options import TextOptions, readable_texts

EPILOG = """\b
Examples:
  normscope why demo
  normscope why gpt2 -f corpus.txt --max-length 128
  normscope why bert-base-uncased -f corpus.txt --samples 2000
  normscope why demo -f corpus.txt --beside microsoft/resnet-18 --image *.png
  normscope why demo --json | jq -r '.claims[] | [.id, .verdict] | @tsv'

A well-known Chinese article asks why NLP uses LayerNorm and not BatchNorm. Each of its claims is tested on
the model and the texts: a number, the null (the number where nothing is there), a rule and a verdict.
--verbose shows all numbers of a claim; > marks the one that decides. The claim HOLDS when the 95% intervals
of more than half of the layers lie on its side of the rule's threshold. It FAILS when those of more than
half of the layers lie on the other side, and is UNDECIDED otherwise. It is NOT TESTABLE HERE when the model
and the texts cannot decide it.

Numbers are medians over the layers. Intervals are those of the jackknife over texts. A text that repeats an
earlier one is left out. Texts of one source, such as a page or an author, are alike: verdicts are too sure
unless each source gives one text. The tokens of at most --samples texts, chosen at random, are kept;
--table-memory limits them, too. Up to 512 texts run again for the nulls. Few texts leave most claims
undecided: several hundred are better. With --beside, a vision model runs over the images of --image; that
needs 200 texts and 100 images.

\b
The claims:
  1a    share of 8 random texts that reach a late position of their batch
  1b    noise at late positions (BN per position), by length over random
  1c    noise per feature, by length over random, corrected for tokens
  2, 3  what text and position explain of the variance (epsilon squared),
        minus the same with words shuffled across texts; no special tokens
  4     similarities of texts kept by the text's scale, minus by BN's scale,
        one layer replaced at a time, minus the same with shuffled words
  5, 6  noise on text over noise on images, at 8 samples, and with as many
        tokens as pixels; needs --beside VISION_MODEL --image FILE...

The table at the end has a text in a row and a position in a column: BatchNorm over flattened texts takes a
column for one feature.

--format csv has one number in a row (claim, view, evidence, layer, statistic, value), jsonl has one claim
in a line.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


@grouped
def why(
    model: options.Model,
    *,
    corpus: TextOptions,
    beside: options.Beside = None,
    image: options.Image = None,
    seed: options.Seed = 0,
    samples: options.Samples = 512,
    table_memory: options.TableMemory = "1GiB",
    batch: BatchOptions,
    exclude: options.Exclude = None,
    layer: options.OnlyLayer = None,
    verbose: options.Verbose = False,
    result: DataResultOptions,
    source: LoadOptions,
) -> None:
    """Test an article's claims on LayerNorm and BatchNorm with this model and these texts."""
    from normscope.data.batch_sampling import Drawing

    place = result.destination({**corpus.paths(model), "--beside": [beside or ""], "--image": image or []})
    loading = source.loading()
    batching = batch.batching(chat=corpus.chat_template)
    room = options.memory(table_memory)
    # What cannot be is refused before the model is loaded.
    Drawing(seed=seed, samples=samples, table_memory=room)
    if beside is not None or image:
        from normscope.analyses.why.vision import require_both

        require_both(beside, image or [])
    format = result.chosen_format()
    texts = corpus.feed(token=source.token, quiet=result.quiet, local=source.local_files_only)
    with reserve_stdout(), ProgressBar(model, shown=wanted(result.quiet)) as progress:
        from normscope.analyses.why.analysis import why as run
        from normscope.models.loading import load

        loaded = load(model, loading)
        report = run(
            loaded,
            readable_texts(texts, loaded),
            loading=loading,
            batching=batching,
            samples=samples,
            table_memory=room,
            seed=seed,
            layers=layer or (),
            exclude=exclude or (),
            beside=beside,
            images=image or (),
            progress=progress,
        )
    inputs = command_line(batch, source, corpus.explicit())
    report = with_command(report)
    # The next command of each claim reads the same inputs.
    claims = [replace(claim, more=f"{claim.more} {inputs}".rstrip()) for claim in report.claims]
    report = replace(report, claims=tuple(claims))
    from normscope.render.why import render_why, render_why_markdown

    write_result(report, format, place, partial(render_why, verbose=verbose), render_why_markdown)
    say_notes(report, quiet=result.quiet, verbose=verbose)
