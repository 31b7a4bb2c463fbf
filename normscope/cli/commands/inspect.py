"""`normscope inspect`: run texts through a model and show its normalization layers."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normscope.cli import options
from normscope.cli.interruption import handle_signals
from normscope.cli.option_groups import CountedBatchOptions, LayerOptions, LoadOptions, grouped
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import ReportOptions, names_of
from normscope.cli.revisions import inspect_revisions, read_revisions, require_support
from normscope.cli.run_options import CheckpointOptions, run_and_merge, shard_for
from normscope.cli.text_options import TextOptions, readable_texts
from normscope.cli.torchrun import is_leader, join_ranks, require_files
from normscope.errors import UsageError

if TYPE_CHECKING:
    from normscope.analyses.distributed import Ranks
    from normscope.data.media_files import Inputs
    from normscope.results.plan import RunPlan

EPILOG = """\b
Examples:
  normscope inspect demo
  normscope inspect bert-base-uncased "The cat sat." "It rained again."
  normscope inspect gpt2 -f corpus.txt --limit 2000 --layer "*.ln_1"
  cat corpus.txt | normscope inspect gpt2 --json | jq '.layers[0].agreement'
  normscope inspect gpt2 -f corpus.txt --plot --layer "*.0.*"
  normscope inspect google/vit-base-patch16-224 --image a.png --image b.jpg
  normscope inspect openai/whisper-tiny --audio speech.wav
  normscope inspect gpt2 -f corpus.txt --format csv -o gpt2.csv
  normscope inspect gpt2 --dataset wikitext:wikitext-2-v1 --split test
  normscope inspect gpt2 -f corpus.txt --batch-size auto --dry-run
  normscope inspect gpt2 -f part1.txt --moments part1.safetensors
  normscope inspect gpt2 -f corpus.txt --checkpoint run.ckpt --resume
  normscope inspect gpt2 -f corpus.txt --shard 1/4 --moments 1.safetensors
  normscope inspect EleutherAI/pythia-70m --revision step1000,step143000

Layers have the names of the model's own code. -v shows the full names. The globs of --layer and --exclude
match the full names; upper and lower case differ. With --per-call, name#2 is the second call of a layer in
each forward pass. Without it, all calls of a layer are pooled, and a line on standard error says so.

Images and sounds run in the given order, without padding, each through the model's own processor. Their
tokens and positions are patches, positions on a feature map, or frames of sound; the tables then say image
or sound in place of text. A model that also takes text needs one TEXT for each file, in the same order; the
tables then say sample.

The first table lists the layers; a wide terminal shows more of its columns. --details adds a table by
position and a table by feature of one layer, that which agrees least with BN, or of those of --layer, and
the outlier features. --verbose adds tables of what each layer is, how often it ran, and its outliers.
--depth adds the residual stream along the blocks, at the norms that read it; nothing is diagnosed from it.

--curve counts the elements of each layer, one feature of one token, by input and output, and draws the layer
that agrees least with BN, or those of --layer, below the tables. A page has all layers. JSON has the counts;
CSV has only the ends of the bins. Layers whose output no formula gives have none.

--plot draws in place of the tables, as wide as the terminal: bars by layer, two heat maps with a row for
each layer, and curves of LN and BN along positions and features, for one layer or for those of --layer.
Without colours, darker is more.

--format csv has one number in a row (layer, view, position, feature, statistic, value), jsonl has one layer
in a line. view.statistic is the name of the number in normscope explain. --tensors writes NAME/count,
NAME/mean and NAME/variance of every layer, by position and feature.

Each layer has a table over positions and features, for texts as long as --max-length or the model's limit.
When these are larger than --table-memory, late positions share bins: positions 0 to k-1 stand alone, then
come bins of 2, 4, 8, ... positions. The report says so, and no other number depends on them. --verbose
writes the size of the tables before the run; --dry-run estimates the whole run.

Long runs: --checkpoint PATH saves the statistics and the progress every 60 seconds. --resume continues from
there after a crash; it refuses another model, corpus or option, and names it. The file is removed when the
result is written. Ctrl-C, SIGTERM or SIGHUP ends a run after its batch and writes the result of the texts
so far; a second one ends it at once. With --resume, standard input must bring the same texts again. --shard
takes texts in turn; blank lines do not count. Under torchrun each rank takes its shard by itself and has
its own checkpoint (PATH.1-of-4), and rank 0 writes the result of all:

\b
  torchrun --nproc-per-node 4 -m normscope inspect gpt2 -f corpus.txt

--revision a,b,c measures the same texts at each revision, one after the other, and shows a trajectory: the
medians over layers of the agreement, of the largest |input|, and of how far the statistics moved from the
first revision, as normscope compare defines it. --json has these numbers of every layer, and a report of
each revision; --format csv has the numbers; normscope report makes a page of the JSON. Weights that are
equal under two names are told. --layer then chooses what is measured.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated, 129 hung up."""


_PerCall = Annotated[
    bool,
    typer.Option(
        "--per-call", help="Measure each call separately where a forward pass uses a layer several times."
    ),
]
_DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Estimate memory and time of the run from one timed batch, and stop."),
]
_Words = Annotated[
    bool,
    typer.Option("--words", help="Also measure how much the word explains; takes up to 1 GiB of memory."),
]
_Curve = Annotated[
    bool, typer.Option("--curve", help="Also draw each layer's output against its input; takes more time.")
]


_Revision = Annotated[
    str | None,
    typer.Option(
        "--revision",
        metavar="REV",
        help="A branch, tag or commit of the model; several, as a,b,c, give a trajectory.",
    ),
]


@dataclass(frozen=True)
class _MappedLoadOptions(LoadOptions):
    """The source of a model, and how it runs, also on several devices."""

    device_map: options.DeviceMap = None
    revision: _Revision = None


@grouped
def inspect(
    model: options.Model,
    *,
    corpus: TextOptions,
    image: options.Image = None,
    audio: options.Audio = None,
    batch: CountedBatchOptions,
    layers: LayerOptions,
    per_call: _PerCall = False,
    words: _Words = False,
    curve: _Curve = False,
    table_memory: options.TableMemory = "1GiB",
    dry_run: _DryRun = False,
    checkpoint: options.CheckpointPath = None,
    checkpoint_every: options.CheckpointEvery = 60.0,
    resume: options.Resume = False,
    shard: options.ShardPart = None,
    result: ReportOptions,
    source: _MappedLoadOptions,
) -> None:
    """Show BatchNorm-style next to LayerNorm-style statistics of every normalization layer."""
    with join_ranks() as ranks, ExitStack() as stack:
        quiet = result.quiet or not is_leader(ranks)
        saving = CheckpointOptions(checkpoint, checkpoint_every, resume)
        if is_leader(ranks):
            reads = {**corpus.paths(model), "--image": image or [], "--audio": audio or []}
            result.check(reads, {"--checkpoint": saving.paths(ranks)})
        saving.check()
        revisions = read_revisions(source.revision)
        if several := len(revisions) > 1:
            others = {"--checkpoint": checkpoint, "--resume": resume, "--shard": shard, "--dry-run": dry_run}
            require_support(result, {**others, "torchrun": ranks})
        part = shard_for(ranks, shard)
        loading = source.loading()
        arguments: dict[str, Any] = {
            "batching": batch.batching(chat=corpus.chat_template),
            "table_memory": options.memory(table_memory),
            **layers.selection(as_data=several or result.chosen_format().is_data),
            "per_call": per_call,
        }
        extra = {"words": words, "curve": curve}
        read = partial(_inputs, corpus, image or [], audio or [], ranks, source)
        if several:
            piped = corpus.reads_stdin and not ((image or audio) and not corpus.any_named)
            inspect_revisions(model, revisions, loading, read, result, piped=piped, **extra, **arguments)
            return
        if dry_run:
            _require_dry_run_support(result.chosen_format(), media=bool(image or audio))
        inputs = read(quiet=quiet)
        with reserve_stdout(), ProgressBar(model, shown=wanted(quiet), plans=result.verbose) as progress:
            from normscope.analyses.inspect import inspect as run
            from normscope.models.loading import load

            saved = saving.checkpoint(ranks, corpus.facts, quiet=quiet)
            loaded = load(model, loading, inputs.kinds)
            detailed = layers.detail_names(loaded)
            texts = None if inputs.texts is None else readable_texts(inputs.texts, loaded)
            if dry_run:
                from normscope.analyses.plan import dry_run as plan_run

                plan = plan_run(loaded, texts or (), **arguments)
            else:
                arguments |= {"images": inputs.images, "audio": inputs.audio, "shard": part, **extra}
                moments = bool(result.moments or result.tensors or ranks)
                run_rank = partial(run, loaded, texts, moments=moments, checkpoint=saved, **arguments)
                request = stack.enter_context(handle_signals(quiet=ranks is not None))
                report = run_and_merge(run_rank, ranks, progress, request)
        if dry_run:
            _write_plan(with_command(plan), result)
            return
        if report is not None:
            result.write(report, names_of(report, detailed))
        stack.close()
        saving.finish(saved, request, ranks)


def _inputs(
    corpus: TextOptions,
    images: list[str],
    audio: list[str],
    ranks: "Ranks | None",
    source: LoadOptions,
    *,
    quiet: bool,
) -> "Inputs":
    """Return what to feed: with images and sounds only text that was named."""
    from normscope.data.media_files import Inputs

    if (images or audio) and not corpus.any_named:
        return Inputs(None, images, audio)
    if not corpus.dataset:
        require_files(ranks, corpus.text or [], corpus.file or [])
    texts = corpus.feed(token=source.token, quiet=quiet, local=source.local_files_only)
    return Inputs(texts, images, audio)


def _require_dry_run_support(format: options.DataFormat, *, media: bool) -> None:
    """Raise UsageError for a format or inputs that a dry run does not support."""
    if format not in (options.DataFormat.TABLE, options.DataFormat.JSON):
        raise UsageError(
            f"--dry-run came with the format {format.value}; expected table or json; name one with --format"
        )
    if media:
        raise UsageError("--dry-run was given with images or sounds; it is for texts; leave it out")


def _write_plan(plan: "RunPlan", result: ReportOptions) -> None:
    from normscope.render.plan import render_plan

    as_json = result.chosen_format() is options.DataFormat.JSON
    result.destination.write(result.destination.json(plan) if as_json else render_plan(plan))
    say_notes(plan, quiet=result.quiet, verbose=result.verbose)
