"""Options that commands share, each declared once: name, short form and help."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from normscope.cli import completion
from normscope.cli.output import say
from normscope.errors import UsageError
from normscope.escaping import quoted


class Format(str, Enum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


class DataFormat(str, Enum):
    """How a result that has tidy data is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"

    @property
    def is_data(self) -> bool:
        """Whether it is for programs, and not for reading."""
        return self in (DataFormat.JSON, DataFormat.JSONL, DataFormat.CSV)


class Order(str, Enum):
    """How texts are put into batches."""

    LENGTH = "length"
    GIVEN = "given"


class SpecialTokens(str, Enum):
    """Whether [CLS], [SEP] and the like count in the statistics."""

    INCLUDE = "include"
    EXCLUDE = "exclude"


AnyFormat = TypeVar("AnyFormat", Format, DataFormat)


_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".md": "markdown"}


def chosen(
    kind: type[AnyFormat],
    format: AnyFormat | None,
    json: bool,
    output: str | None,
    *,
    plot: bool = False,
) -> AnyFormat:
    """Join --format, --json, --plot and the suffix of --output, which decides where none of them is given.

    UsageError when options contradict each other.
    """
    if json and format is not None and format.value not in ("table", "json"):
        raise UsageError(f"--json and --format {format.value} were both given; expected one format; drop one")
    by_suffix = _by_suffix(output)
    is_one = by_suffix in [each.value for each in kind] and not plot
    found = kind("json") if json else format or kind(by_suffix if is_one else "table")
    if plot and found.value != "table":
        raise UsageError(
            f"--plot and --format {found.value} were both given; a plot is for reading only; drop one"
        )
    return found


def tell_suffix(found: Format | DataFormat, output: str | None, *, plot: bool = False) -> None:
    """Say in one line where the suffix of --output is that of another format than is written."""
    by_suffix, written = _by_suffix(output), "a plot" if plot else found.value
    if by_suffix not in (None, written):
        say(f"warning: --output {quoted(output)} ends as {by_suffix} does, but {written} is written")


def _by_suffix(output: str | None) -> str | None:
    return _SUFFIXES.get(Path(output or "").suffix.lower())


def globs(name: str, help: str) -> Any:
    """Declare an option that takes layers by their globs, and is completed by their names."""
    return typer.Option(name, metavar="GLOB", help=help, autocompletion=completion.layers)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hub id such as bert-base-uncased, a folder in Hugging Face layout, or demo.",
        autocompletion=completion.models,
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT", help="Texts to feed, one sample each; - or a pipe: standard input, one a line."
    ),
]

File = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        metavar="PATH",
        help="Read texts from a .txt, .json, .jsonl, .csv or .tsv file, plain or .gz. Repeatable.",
    ),
]
Image = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="FILE...",
        help="Feed images, one or more files; the model's own processor scales them. Repeatable.",
    ),
]
Beside = Annotated[
    str | None,
    typer.Option(
        "--beside",
        metavar="MODEL",
        help="Measure a vision model, such as a CNN, on the images of --image, next to MODEL. Of the options "
        "for loading, all but --revision and --attn-implementation are for both.",
        autocompletion=completion.models,
    ),
]
Audio = Annotated[
    list[str] | None,
    typer.Option(
        "--audio",
        metavar="FILE...",
        help="Feed sounds, one or more files, as one channel at the model's rate. Repeatable.",
    ),
]
Field = Annotated[
    str | None,
    typer.Option("--field", metavar="NAME", help="The member, column or field that holds the text."),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="ID_OR_PATH",
        help="Read texts as a stream from a dataset of the Hub, ID or ID:CONFIG, or a local file or "
        "folder of parquet, arrow, JSON lines.",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Which part of the dataset, such as train.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Read at most N samples.")]
Unique = Annotated[bool, typer.Option("--unique", help="Leave out texts that repeat an earlier one exactly.")]
MaxLength = Annotated[
    int | None,
    typer.Option("--max-length", metavar="N", help="Cut texts to N tokens; by default to the model's limit."),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N|auto",
        help="Samples per batch; auto: as many texts as make 4,096 tokens with their padding, more on a "
        "GPU with room. What memory does not hold is run in halves.",
    ),
]
BatchOrder = Annotated[
    Order,
    typer.Option("--order", help="Batch texts of like length together, or as given."),
]
Special = Annotated[
    SpecialTokens,
    typer.Option("--special-tokens", help="Whether [CLS], [SEP] and the like count in the statistics."),
]
Layer = Annotated[
    list[str] | None, globs("--layer", "Show these layers in detail; with JSON, only these. Repeatable.")
]
OnlyLayer = Annotated[list[str] | None, globs("--layer", "Measure only these layers. Repeatable.")]
Exclude = Annotated[list[str] | None, globs("--exclude", "Do not measure these layers. Repeatable.")]
PerCall = Annotated[
    bool,
    typer.Option(
        "--per-call", help="Tell the calls of a layer that is used several times in a forward apart."
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", metavar="N", help="Keep the statistics of at most N single texts.")
]
TableMemory = Annotated[
    str,
    typer.Option(
        "--table-memory",
        metavar="SIZE",
        help="Most memory for the tables that numbers are read off, such as 512MiB or 2GB.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what the run would take, after one timed batch, and stop."),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Decides all that is left to chance.")]
Top = Annotated[
    int,
    typer.Option("--top", min=1, metavar="K", help="Most rows of a detailed table."),
]
Words = Annotated[
    bool,
    typer.Option("--words", help="Also what the word explains: takes memory, 1 GiB at most."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="A branch, tag or commit of the model.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="A Hub token; by default the one logged in with."),
]
CacheDir = Annotated[
    str | None, typer.Option("--cache-dir", metavar="PATH", help="Where downloaded models are kept.")
]
LocalFilesOnly = Annotated[
    bool, typer.Option("--local-files-only", help="Download nothing: use what the cache has.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. It can do anything.")
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps, ..."),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="NAME",
        help="auto: spread the model over all devices, and main memory; needs the extra accelerate.",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="auto, float32, bfloat16 or float16; auto is the checkpoint's own.",
        autocompletion=completion.dtypes,
    ),
]
AttnImplementation = Annotated[
    str | None,
    typer.Option("--attn-implementation", metavar="NAME", help="eager, sdpa, flash_attention_2, ..."),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Run a model whose checkpoint lacks weights: random ones.")
]
_HOW = "How to write the result; by default as the suffix of --output says, or as a table."
OutputFormat = Annotated[Format | None, typer.Option("--format", help=_HOW)]
OutputDataFormat = Annotated[DataFormat | None, typer.Option("--format", help=_HOW)]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw bars, curves and heat maps in place of the tables.")]
OutputPath = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write to a file, whole or not at all."),
]
MomentsPath = Annotated[
    str | None,
    typer.Option(
        "--moments", metavar="PATH", help="Also write the report with its moments, for normscope merge."
    ),
]
CheckpointPath = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="PATH", help="Save now and then how far the run is, for --resume."),
]
CheckpointEvery = Annotated[
    float,
    typer.Option("--checkpoint-every", metavar="SECONDS", min=0.0, help="How often; 0 is after every batch."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the checkpoint, or begin anew where there is none.")
]
ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Take every N-th text from the I-th on, for normscope merge."
    ),
]
TensorsPath = Annotated[
    str | None,
    typer.Option(
        "--tensors", metavar="PATH", help="Also write the position x feature tables, as safetensors."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Full names, more about each layer, all warnings.")
]
