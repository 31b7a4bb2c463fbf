"""`normscope swap`: replace LayerNorm by BatchNorm and show what breaks."""

from enum import Enum
from typing import Annotated

import typer

from normscope.cli import options
from normscope.cli.destinations import require_folder
from normscope.cli.option_groups import CountedBatchOptions, DataResultOptions, LoadOptions, grouped
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import write_result
from normscope.cli.text_options import TextOptions, readable_texts
from normscope.errors import SaveError

EPILOG = """\b
Examples:
  normscope swap demo
  normscope swap gpt2 -f corpus.txt --max-length 128 --kind frozen
  normscope swap bert-base-uncased -f test.txt --calibration train.txt
  normscope swap gpt2 -f corpus.txt --kind batchnorm-fitted --fold --save DIR
  normscope swap demo -f corpus.txt --layer '*.attention.*' --cumulative
  normscope swap demo -f corpus.txt --json | jq '.all.effect.kl'

Each LayerNorm and RMSNorm is replaced, first alone, then all of them together. The model then runs on
held-out texts, which do not take part in the statistics. One half of the texts (the first, the third, ...)
gives the statistics and the other half is held out, unless --calibration names other texts for the
statistics.

\b
The kinds of replacement:
  batchnorm         mean and variance per feature, over all calibration
                    tokens, as BatchNorm uses in evaluation
  batchnorm-fitted  the best line per feature, y = a x + b by least squares:
                    the best that any fixed scale and shift can do
  batchnorm-batch   mean and variance per feature over the tokens of the
                    batch, as BatchNorm uses in training: see --batch-size
  frozen            the layer's own centring, and one scale for all tokens:
                    the mean of the scales that it gives single tokens;
                    with --first apart, position 0 has one of its own
  identity          nothing
  rmsnorm           RMSNorm: the mean is not subtracted, and the scale is
                    the root mean square; an RMSNorm stays as it is
  scale-feature     the variance per feature over all calibration tokens for
                    the scale alone: the token keeps its own centre
  centre-feature    the mean per feature over all calibration tokens for the
                    centre alone: the token keeps its own scale
  scale-sequence    one scale for all tokens and features of a text: the
                    token keeps its own centre
  centre-sequence   one centre for all tokens and features of a text: the
                    token keeps its own scale
  dyt               Dynamic Tanh: gamma tanh(alpha x) + beta, alpha for the
                    layer, gamma and beta per feature, by least squares
  derf              the same with erf(alpha x + shift)

dyt and derf are meant for training from scratch: a poor fit of a trained model is a finding, not a fault.
They run the calibration texts four and five times. The own centre of an RMSNorm is 0, and its own scale the
root mean square. The layer's own weight and bias are applied after each of them. The loss is that of the
next token, or of the 15% of a text's tokens that --seed masks.

batchnorm, batchnorm-fitted, frozen and identity are fixed: one linear map for all tokens (not with --first
apart). --fold folds such a replacement into the Linear layers that read its output, if nothing else reads
it; the layer then does nothing. A run on the held-out texts checks that the outputs are equal. --save writes
the fold to DIR; normscope.read_fold("DIR").apply(model) applies it in Python. In its table, "read by" names
the modules whose weights change. "not folded because" names another reader of the layer, or another
obstacle.

The model runs once per layer and batch on the held-out texts. --cumulative adds one run per layer,
--recalibrate one run per layer on the calibration texts, and --fold two runs per folded layer.

--format csv has one number in a row (layer, view, replaced, statistic, value), jsonl has one layer in a
line.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


SAVED = ("normscope-calibration.safetensors", "normscope-fold.safetensors")


class First(str, Enum):
    """Whether position 0 of a text shares the scale of the other positions."""

    POOLED = "pooled"
    APART = "apart"


class SwapKind(str, Enum):
    """The replacements of a layer."""

    BATCHNORM = "batchnorm"
    FITTED = "batchnorm-fitted"
    BATCH = "batchnorm-batch"
    FROZEN = "frozen"
    IDENTITY = "identity"
    RMSNORM = "rmsnorm"
    SCALE_FEATURE = "scale-feature"
    CENTRE_FEATURE = "centre-feature"
    SCALE_SEQUENCE = "scale-sequence"
    CENTRE_SEQUENCE = "centre-sequence"
    DYT = "dyt"
    DERF = "derf"


_KindOption = Annotated[
    SwapKind,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="The replacement: batchnorm, frozen, identity, ...; --help-all explains all.",
    ),
]
_FirstOption = Annotated[
    First,
    typer.Option(
        "--first", help="The scale of position 0 for --kind frozen: that of all tokens, or its own."
    ),
]
_CalibrationFile = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="Take the statistics from the texts of this file, and hold out all other texts. Repeatable.",
    ),
]
Layer = Annotated[list[str] | None, options.globs("--layer", "Replace only these layers. Repeatable.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Do not replace these layers. Repeatable."),
]
_Cumulative = Annotated[
    bool,
    typer.Option("--cumulative", help="Also replace more and more layers, the most tolerant first."),
]
_Recalibrate = Annotated[
    bool,
    typer.Option("--recalibrate", help="Take a layer's statistics with the earlier layers replaced; slow."),
]
Fold = Annotated[
    bool,
    typer.Option("--fold", help="Fold the replacements into the Linear layers that read them."),
]
Save = Annotated[
    str | None,
    typer.Option(
        "--save",
        metavar="DIR",
        help="Write the statistics and the fold to a folder, for normscope.read_calibration and read_fold.",
    ),
]


@grouped
def swap(
    model: options.Model,
    *,
    corpus: TextOptions,
    calibration: _CalibrationFile = None,
    kind: _KindOption = SwapKind.BATCHNORM,
    first: _FirstOption = First.POOLED,
    layer: Layer = None,
    exclude: Exclude = None,
    cumulative: _Cumulative = False,
    recalibrate: _Recalibrate = False,
    fold: Fold = False,
    save: Save = None,
    seed: options.Seed = 0,
    batch: CountedBatchOptions,
    result: DataResultOptions,
    verbose: options.Verbose = False,
    source: LoadOptions,
) -> None:
    """Replace LayerNorms by BatchNorm-style layers and measure what breaks."""
    from normscope.analyses.swap.options import BATCH, Swapping
    from normscope.data.batching import require_number

    outputs = [f"{save}/{name}" for name in ("", *SAVED)] if save else []
    destination = result.destination(
        {**corpus.paths(model), "--calibration": calibration or []}, {"--save": outputs}
    )
    if save is not None:
        require_folder("--save", save, SAVED)
    loading = source.loading()
    batching = batch.batching(chat=corpus.chat_template)
    swapping = Swapping(kind.value, cumulative, recalibrate, seed, fold, first.value)
    if swapping.kind == BATCH:
        require_number(batching.batch_size, f"{BATCH}, whose statistics are each batch's")
    format = result.chosen_format()
    calibration_texts = corpus.file_texts(calibration) if calibration else None
    texts = corpus.feed(token=source.token, quiet=result.quiet, local=source.local_files_only)
    with reserve_stdout(), ProgressBar(model, shown=wanted(result.quiet)) as progress:
        from normscope.analyses.swap.analysis import swap
        from normscope.models.loading import load

        loaded = load(model, loading)
        failure = None
        try:
            report = swap(
                loaded,
                readable_texts(texts, loaded),
                calibration=calibration_texts,
                batching=batching,
                swapping=swapping,
                layers=layer or (),
                exclude=exclude or (),
                save=save,
                progress=progress,
            )
        except SaveError as error:
            report, failure = error.report, error
    report = with_command(report)
    from normscope.render.swap import render_swap, render_swap_markdown

    write_result(report, format, destination, render_swap, render_swap_markdown)
    say_notes(report, quiet=result.quiet, verbose=verbose)
    if failure is not None:
        raise failure
