"""`normscope swap`: replace LayerNorm by BatchNorm and show what breaks."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import options
from normscope.cli.destinations import require_folder
from normscope.cli.option_groups import CountedBatchOptions, LoadOptions, ResultOptions, grouped
from normscope.cli.output import Output, data_alone, warn
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.text_options import TextOptions, named_files, readable
from normscope.errors import SaveError

if TYPE_CHECKING:
    from normscope.results.swap import SwapReport

EPILOG = """\b
Examples:
  normscope swap demo
  normscope swap gpt2 -f corpus.txt --max-length 128 --kind frozen
  normscope swap bert-base-uncased -f test.txt --calibration train.txt
  normscope swap demo -f corpus.txt --layer '*.attention.*' --cumulative
  normscope swap gpt2 -f corpus.txt --kind batchnorm-fitted --fold --save DIR
  normscope swap demo -f corpus.txt --json | jq '.all.effect.kl'

\b
Each LayerNorm and RMSNorm is replaced alone, then all together, and texts
that the statistics were not taken from are run again. Half of the texts, the
first, the third, ..., are calibrated on and the others are held out, unless
--calibration brings texts of its own. What the layers are replaced by:
  batchnorm         mean and variance per feature, over all tokens that were
                    calibrated on, as BatchNorm uses when it is evaluated
  batchnorm-fitted  the best line per feature, y = a x + b by least squares:
                    the most that any fixed scale and shift can do
  batchnorm-batch   mean and variance per feature over the tokens of the
                    batch, as BatchNorm uses in training: see --batch-size
  frozen            the layer's own centring, and one scale for all tokens:
                    the mean of those that it gives each
  identity          nothing
The layer's own weight and bias follow each of them.

\b
The loss is that of the token that comes, or of the 15% of a text's tokens
that --seed masks.

{columns}

\b
All replacements but batchnorm-batch are fixed, one linear map for all tokens.
--fold lets the Linears that read a layer do its work, where nothing else
reads it: then the layer is nothing. That is proved on the held-out texts, and
kept with --save for normscope.read_fold("DIR").apply(model).
A table names the modules that read a layer, whose weights are changed, and
says of a layer that is not folded what else reads it, or is in the way.

\b
The model runs once per layer, and batch, on the held-out texts. --cumulative
adds a run per layer, --recalibrate a run per layer on the others, and --fold
two runs per layer that is folded.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


SAVED = ("normscope-calibration.safetensors", "normscope-fold.safetensors")


class SwapKind(str, Enum):
    """What is put in a layer's place."""

    BATCHNORM = "batchnorm"
    FITTED = "batchnorm-fitted"
    BATCH = "batchnorm-batch"
    FROZEN = "frozen"
    IDENTITY = "identity"


_KindOption = Annotated[SwapKind, typer.Option("--kind", help="What the layers are replaced by.")]
_CalibrationFile = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        metavar="PATH",
        help="Take the statistics from a file's texts, and hold out all TEXT. Repeatable.",
    ),
]
Layer = Annotated[list[str] | None, options.globs("--layer", "Replace only these layers. Repeatable.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Leave these layers as they are. Repeatable."),
]
_Cumulative = Annotated[
    bool,
    typer.Option("--cumulative", help="Also one after the other, the most tolerant first."),
]
_Recalibrate = Annotated[
    bool,
    typer.Option(
        "--recalibrate", help="Take a layer's statistics with those replaced before it in place; slow."
    ),
]
Fold = Annotated[
    bool,
    typer.Option("--fold", help="Fold replacements into the Linears that read them."),
]
Save = Annotated[
    str | None,
    typer.Option(
        "--save",
        metavar="DIR",
        help="Keep the statistics, for normscope.read_calibration, and the fold.",
    ),
]


@grouped
def swap(
    model: options.Model,
    *,
    corpus: TextOptions,
    calibration: _CalibrationFile = None,
    kind: _KindOption = SwapKind.BATCHNORM,
    layer: Layer = None,
    exclude: Exclude = None,
    cumulative: _Cumulative = False,
    recalibrate: _Recalibrate = False,
    fold: Fold = False,
    save: Save = None,
    seed: options.Seed = 0,
    batch: CountedBatchOptions,
    result: ResultOptions,
    verbose: options.Verbose = False,
    source: LoadOptions,
) -> None:
    """Put BatchNorm-style layers in LayerNorm's place and measure what breaks."""
    from normscope.analyses.swap.options import BATCH, Swapping
    from normscope.data.batching import require_number

    saved = [f"{save}/{name}" for name in ("", *SAVED)] if save else []
    place = result.place({**corpus.places(model), "--calibration": calibration or []}, {"--save": saved})
    if save is not None:
        require_folder("--save", save, SAVED)
    loading = source.loading()
    batching = batch.batching()
    swapping = Swapping(kind.value, cumulative, recalibrate, seed, fold)
    if swapping.kind == BATCH:
        require_number(batching.batch_size, f"{BATCH}, whose statistics are each batch's")
    format = result.chosen()
    known = named_files(calibration, corpus.field) if calibration else None
    texts = corpus.feed(token=source.token, quiet=result.quiet, local=source.local_files_only)
    with data_alone(), ProgressBar(model, shown=wanted(result.quiet)) as progress:
        from normscope.analyses.swap.analysis import swap
        from normscope.models.loading import load

        loaded = load(model, loading)
        failure = None
        try:
            report = swap(
                loaded,
                readable(texts, loaded),
                calibration=known,
                batching=batching,
                swapping=swapping,
                layers=layer or (),
                exclude=exclude or (),
                save=save,
                progress=progress,
            )
        except SaveError as error:
            report, failure = error.report, error
    place.write(_rendered(report, format, place))
    if not result.quiet:
        warn(report.warnings, verbose=verbose)
    if failure is not None:
        raise failure


def _rendered(report: "SwapReport", format: options.Format, place: Output) -> str:
    if format is options.Format.JSON:
        return place.json(report)
    from normscope.render.swap import render_swap, render_swap_markdown

    if format is options.Format.MARKDOWN:
        return render_swap_markdown(report)
    return render_swap(report, screen=place.screen())
