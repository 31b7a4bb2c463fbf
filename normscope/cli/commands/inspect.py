"""`normscope inspect`: run texts through a model and show its normalization layers."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from normscope.cli import options
from normscope.cli import value_parsers as values
from normscope.cli.interruption import signals
from normscope.cli.option_groups import CountedBatchOptions, LayerOptions, LoadOptions, grouped
from normscope.cli.output import data_alone
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.report_options import ReportOptions, named
from normscope.cli.run_options import Resuming, measured, part_of
from normscope.cli.text_options import TextOptions, readable
from normscope.cli.torchrun import joined, leads, require_files
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
Layers are named as in the model's own code; -v shows the names in full, and
the globs of --layer and --exclude match those; upper and lower case differ.
With --per-call, name#2 is the second call of a layer in each forward; without
it all calls of a layer are pooled, and a line on standard error says so.

\b
Images and sounds run in their order, each through the model's own processor,
unpadded. Their tokens and positions are patches, places on a feature map, or
frames of sound; where it says text below, tables then say image or sound. A
model that takes text beside them needs one TEXT for each file, in the same
order, and then tables say sample.

\b
The layers (more columns in a wider terminal; a dash is an unknown number):
  LN mean, LN variance  of each token over its features, as LayerNorm takes
                        them: average over tokens, +- standard deviation
  BN variance           of each feature over all tokens, as BatchNorm takes
                        it: the least .. the greatest of all features
  agreement with BN     cosine between the layer's own output and BatchNorm's
                        from the statistics of all texts: 1 is the same up to
                        scale
  position explains     share of the input's variance that goes with the
                        position in the text (epsilon squared; below 0 is
                        less than chance would give)
  text explains         the same for the text that the token is in
  word explains         the same for the token's id, with --words
  best BN fit r2        how much of the output the best fixed scale and shift
                        per feature can reproduce (R squared)
  agreement position    the same cosine if one mean and variance were taken
                        per position
  agreement text        and per text, over all its tokens and features
  first position        rms of the centred first token, relative to the rest
  kind                  layernorm, rmsnorm, ...: shown where they differ; told
                        by what the layer does, not by its name
  features, module      how many features, and the layer's Python class

\b
By position, in one layer (the one that agrees least with BN, or --layer):
  texts                 how many reach the position; * is under 30
  LN mean, LN variance  averages of the tokens' own, there
  BN mean, BN variance  over all texts and features there: BatchNorm with the
                        position as its channel
  log scale             the BN variance as a bar

\b
By feature, in that layer, the K of --top:
  BN mean, BN variance  of the layer's input, over all tokens
  LN leaves mean, variance
                        of the layer's own output before its scale and shift;
                        BN would leave 0 and 1 in every feature
  distance              from that: mean^2 + (sd - 1)^2, the squared
                        Wasserstein distance of the two normal distributions

\b
Outlier features, where any recur: the output is 6 or more in size in 6% or
more of the tokens, in a quarter or more of the layers as wide (LLM.int8):
  layers                in how many of the layers of that width
  tokens                share of the tokens, in the layer with the most
  output                the largest size of the feature's output
  sd ratio              standard deviation of the feature in the input, over
                        the median feature's, in the layer with the largest
  weight, bias          in how many of these layers the feature's scale, or
                        shift, is over 3 sd from the mean of the layer's

\b
--verbose adds, for each layer:
  calls, tokens         how often it ran, and how many tokens it saw
  own error             largest gap between our formula for the layer and its
                        real output, relative to the output's rms
  layout                the axes of its input: B text, T position, H head, D
                        feature
  eps, affine           what it adds to the variance, and its scale and shift
  6 or more             features whose output is, in at least 6% of the tokens
  sd ratio              the largest over the median standard deviation of a
                        feature of the input
  massive               elements of the input over 100 in size and over 1000
                        medians of their text: how many, the largest, and in
                        which features and positions most are
  weight, bias          features whose own scale, or shift, is over 3 sd from
                        the mean of the layer's

\b
--plot draws instead, in the width of the terminal: agreement and what
explains the input as bars; BN's variance at each position, over the layer's
own, and BN's sd of each feature, over the layer's median one, as heat maps, a
row a layer; and along the positions and features of one layer, or --layer, LN
beside BN as curves. Scales, their ends and what shares a cell are written
below. Without colours, darker is more.

\b
--format csv has one number a row (layer, view, position, feature, statistic,
value), jsonl one layer a line; view.statistic is the number's name in
normscope explain. --tensors writes NAME/count, NAME/mean and NAME/variance of
every layer, per position and feature.

\b
Each layer has a table over positions and features. Where those of the longest
texts (--max-length, or the model's limit) would take over --table-memory, 1
GiB, late positions share bins: 0 to k-1 alone, then bins of 2, 4, 8, ...; the
report says so, and run.position_bins which. No other view depends on it.
--verbose says before the run what the tables take, --dry-run what all does.

\b
Long runs: --checkpoint PATH saves, every 60 seconds, what was measured and
how far it is; --resume goes on from there after a crash and refuses, by name,
another model, corpus or options. The file goes when the result is written.
Ctrl-C, SIGTERM or SIGHUP ends a run after its batch; what was asked for is
written, of what was seen so far; the second time it ends at once. Standard
input must bring the same texts again. --shard takes texts in turn, blank
lines not counted; under torchrun each rank does so by itself, has a
checkpoint of its own (PATH.1-of-4), and rank 0 writes the result of all:
  torchrun --nproc-per-node 4 -m normscope inspect gpt2 -f corpus.txt

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated,
129 hung up.
normscope explain NAME has the formula and source of each number."""


@dataclass(frozen=True)
class _MappedLoadOptions(LoadOptions):
    """Where a model comes from, and how it runs, on several devices too."""

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
    """Show BN-style beside LN-style statistics of every normalization layer."""
    with joined() as ranks, ExitStack() as handled:
        quiet = result.quiet or not leads(ranks)
        resuming = Resuming(checkpoint, checkpoint_every, resume)
        if leads(ranks):
            reads = {**corpus.places(model), "--image": image or [], "--audio": audio or []}
            result.check(reads, {"--checkpoint": resuming.paths(ranks)})
        resuming.check()
        part = part_of(ranks, shard)
        loading = source.loading()
        choices: dict[str, Any] = {
            "batching": batch.batching(),
            "table_memory": values.memory(table_memory),
            **layers.measured(as_data=result.chosen().is_data),
            "per_call": per_call,
        }
        if dry_run:
            _require_plain(result.chosen(), media=bool(image or audio))
        given = _given(corpus, image or [], audio or [], ranks, source, quiet=quiet)
        with data_alone(), ProgressBar(model, shown=wanted(quiet), plans=result.verbose) as progress:
            from normscope.analyses.inspect import inspect as run
            from normscope.models.loading import load

            saving = resuming.checkpoint(ranks, corpus.facts, quiet=quiet)
            loaded = load(model, loading, given.kinds)
            shown = layers.shown(loaded)
            texts = None if given.texts is None else readable(given.texts, loaded)
            plan = _planned(loaded, texts, choices) if dry_run else None
            if plan is None:
                choices |= {"images": given.images, "audio": given.audio, "words": words, "shard": part}
                moments = bool(result.moments or result.tensors or ranks)
                inspected = partial(run, loaded, texts, moments=moments, checkpoint=saving, **choices)
                asked = handled.enter_context(signals(quiet=ranks is not None))
                whole = measured(inspected, ranks, progress, asked)
        if plan is not None:
            _write_plan(plan, result)
            return
        if whole is not None:
            result.write(whole, named(whole, shown))
        handled.close()
        resuming.done(saving, asked, ranks)


def _given(
    corpus: TextOptions,
    images: list[str],
    audio: list[str],
    ranks: "Ranks | None",
    source: LoadOptions,
    *,
    quiet: bool,
) -> "Inputs":
    """Return what to feed; beside images and sounds goes only text that was named."""
    from normscope.data.media_files import Inputs

    if (images or audio) and not corpus.any_named:
        return Inputs(None, images, audio)
    if not corpus.dataset:
        require_files(ranks, corpus.text or [], corpus.file or [])
    texts = corpus.feed(token=source.token, quiet=quiet, local=source.local_files_only)
    return Inputs(texts, images, audio)


def _require_plain(format: options.DataFormat, *, media: bool) -> None:
    """Raise UsageError where there is no dry run of what is asked for."""
    if format not in (options.DataFormat.TABLE, options.DataFormat.JSON):
        raise UsageError(
            f"--dry-run came with the format {format.value}; expected table or json; name one with --format"
        )
    if media:
        raise UsageError("--dry-run was given with images or sounds; it is for texts; leave it out")


def _planned(loaded: "Loaded", texts: "Iterable[str] | None", choices: dict[str, Any]) -> "RunPlan":
    """Return what the run would take."""
    from normscope.analyses.plan import dry_run

    return dry_run(loaded, texts or (), **choices)


def _write_plan(plan: "RunPlan", result: ReportOptions) -> None:
    from normscope.render.plan import render_plan

    place = result.place
    place.write(place.json(plan) if result.chosen() is options.DataFormat.JSON else render_plan(plan))
