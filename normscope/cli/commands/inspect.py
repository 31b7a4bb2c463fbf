"""`normscope inspect`: run texts through a model and show its normalization layers."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from normscope.cli import options
from normscope.cli.interruption import handle_signals
from normscope.cli.option_groups import CountedBatchOptions, LayerOptions, LoadOptions, grouped
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.report_options import ReportOptions, names_of
from normscope.cli.run_options import CheckpointOptions, run_and_merge, shard_for
from normscope.cli.text_options import TextOptions, readable_texts
from normscope.cli.torchrun import is_leader, join_ranks, require_files
from normscope.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from normscope.analyses.distributed import Ranks
    from normscope.data.media_files import Inputs
    from normscope.models.loading import Loaded
    from normscope.results.plan import RunPlan

EPILOG = """\b
Examples:
  normscope inspect demo
  normscope inspect bert-base-uncased "The cat sat." "It rained again."
  normscope inspect gpt2 -f corpus.txt --limit 2000 --layer "*.ln_1"
  normscope inspect google/vit-base-patch16-224 --image a.png --image b.jpg
  normscope inspect openai/whisper-tiny --audio speech.wav
  normscope inspect gpt2 -f corpus.txt --format csv -o gpt2.csv
  normscope inspect gpt2 -f part1.txt --moments part1.safetensors
  normscope inspect gpt2 -f corpus.txt --checkpoint run.ckpt --resume
  normscope inspect gpt2 -f corpus.txt --shard 1/4 --moments 1.safetensors
  normscope inspect gpt2 --dataset wikitext:wikitext-2-v1 --split test
  normscope inspect gpt2 -f corpus.txt --batch-size auto --dry-run
  normscope inspect gpt2 -f corpus.txt --plot --layer "*.0.*"
  cat corpus.txt | normscope inspect gpt2 --json | jq '.layers[0].agreement'

\b
Layers have the names of the model's own code; -v shows the full names, which
the globs of --layer and --exclude match; upper and lower case differ.
With --per-call, name#2 is the second call of a layer in each forward; without
it all calls of a layer are pooled, and a line on standard error says so.

\b
Images and sounds run in the given order, each through the model's own
processor, unpadded. Their tokens and positions are patches, positions on a
feature map, or frames of sound; tables then say image or sound for text. A
model that also takes text needs one TEXT for each file, in the same order,
and then tables say sample.

\b
First comes a table of the layers. One of them, the one that agrees least with
BN, or --layer, then has a table by position, and one by feature, of the K
features of --top that it leaves furthest from BN's mean 0 and variance 1.
Outlier features are listed where any recur: where the output is 6 or more in
size in 6% or more of the tokens, in a quarter or more of the layers as wide
(LLM.int8). --verbose adds tables of what each layer is, how often it ran, and
its outliers. The shares that position, text and word explain are epsilon
squared: below 0 is less than random groups explain. The kind is shown where
layers differ in it; a wide terminal shows their Python classes, too.

\b
--plot draws instead of tables, in the width of the terminal: bars of the
agreement and of what explains the input; heat maps with a row for each layer,
of BN's variance at each position, over the layer's own, and of BN's sd of
each feature, over the layer's median; and for one layer, or --layer, curves
of LN and BN along positions and features. Scales and their ends are written
below, and how many share a cell. Without colours, darker is more.

\b
--format csv has one number in a row (layer, view, position, feature,
statistic, value), jsonl one layer in a line; view.statistic is the number's
name in normscope explain. --tensors writes NAME/count, NAME/mean and
NAME/variance of every layer, per position and feature.

\b
Each layer has a table over positions and features. If the tables for the
longest texts (--max-length, or the model's limit) would take more than
--table-memory, 1 GiB by default, late positions share bins: 0 to k-1 alone,
then bins of 2, 4, 8, ...; the report says so, and run.position_bins has them.
No other view depends on it. --verbose writes the size of the tables before
the run; --dry-run estimates the whole run.

\b
Long runs: --checkpoint PATH saves the statistics and the progress every 60
seconds; --resume continues from there after a crash and refuses another
model, corpus or option, which it names. The file is removed when the result
is written. Ctrl-C, SIGTERM or SIGHUP ends a run after its batch and writes
the result of the texts so far; the second time it ends at once. Standard
input must bring the same texts again. --shard takes texts in turn, blank
lines not counted; under torchrun each rank does so by itself, has its own
checkpoint (PATH.1-of-4), and rank 0 writes the result of all:
  torchrun --nproc-per-node 4 -m normscope inspect gpt2 -f corpus.txt

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated,
129 hung up.
normscope explain NAME has the formula and source of each number."""


@dataclass(frozen=True)
class _MappedLoadOptions(LoadOptions):
    """The source of a model, and how it runs, also on several devices."""

    device_map: options.DeviceMap = None


@grouped
def inspect(
    model: options.Model,
    *,
    corpus: TextOptions,
    image: options.Image = None,
    audio: options.Audio = None,
    batch: CountedBatchOptions,
    layers: LayerOptions,
    per_call: options.PerCall = False,
    words: options.Words = False,
    table_memory: options.TableMemory = "1GiB",
    dry_run: options.DryRun = False,
    checkpoint: options.CheckpointPath = None,
    checkpoint_every: options.CheckpointEvery = 60.0,
    resume: options.Resume = False,
    shard: options.ShardPart = None,
    result: ReportOptions,
    source: _MappedLoadOptions,
) -> None:
    """Show BN-style next to LN-style statistics of every normalization layer."""
    with join_ranks() as ranks, ExitStack() as stack:
        quiet = result.quiet or not is_leader(ranks)
        saving = CheckpointOptions(checkpoint, checkpoint_every, resume)
        if is_leader(ranks):
            reads = {**corpus.paths(model), "--image": image or [], "--audio": audio or []}
            result.check(reads, {"--checkpoint": saving.paths(ranks)})
        saving.check()
        part = shard_for(ranks, shard)
        loading = source.loading()
        arguments: dict[str, Any] = {
            "batching": batch.batching(),
            "table_memory": options.memory(table_memory),
            **layers.selection(as_data=result.chosen_format().is_data),
            "per_call": per_call,
        }
        if dry_run:
            _require_dry_run_support(result.chosen_format(), media=bool(image or audio))
        inputs = _inputs(corpus, image or [], audio or [], ranks, source, quiet=quiet)
        with reserve_stdout(), ProgressBar(model, shown=wanted(quiet), plans=result.verbose) as progress:
            from normscope.analyses.inspect import inspect as run
            from normscope.models.loading import load

            saved = saving.checkpoint(ranks, corpus.facts, quiet=quiet)
            loaded = load(model, loading, inputs.kinds)
            detailed = layers.detail_names(loaded)
            texts = None if inputs.texts is None else readable_texts(inputs.texts, loaded)
            plan = _plan(loaded, texts, arguments) if dry_run else None
            if plan is None:
                arguments |= {"images": inputs.images, "audio": inputs.audio, "words": words, "shard": part}
                moments = bool(result.moments or result.tensors or ranks)
                run_rank = partial(run, loaded, texts, moments=moments, checkpoint=saved, **arguments)
                request = stack.enter_context(handle_signals(quiet=ranks is not None))
                report = run_and_merge(run_rank, ranks, progress, request)
        if plan is not None:
            _write_plan(plan, result)
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


def _plan(loaded: "Loaded", texts: "Iterable[str] | None", arguments: dict[str, Any]) -> "RunPlan":
    """Return the plan of the run."""
    from normscope.analyses.plan import dry_run

    return dry_run(loaded, texts or (), **arguments)


def _write_plan(plan: "RunPlan", result: ReportOptions) -> None:
    from normscope.render.plan import render_plan

    as_json = result.chosen_format() is options.DataFormat.JSON
    result.destination.write(result.destination.json(plan) if as_json else render_plan(plan))
