"""Options that commands share, each declared once, and the parsers of their values."""

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from normscope.cli import completion
from normscope.cli.output import say
from normscope.errors import UsageError
from normscope.escaping import quoted


class DataFormat(str, Enum):
    """The format of a result that has tidy data."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"

    @property
    def is_data(self) -> bool:
        """Whether programs read it, and not people."""
        return self in (DataFormat.JSON, DataFormat.JSONL, DataFormat.CSV)


class Order(str, Enum):
    """The order of texts in batches."""

    LENGTH = "length"
    GIVEN = "given"


class SpecialTokens(str, Enum):
    """Whether [CLS], [SEP] and the like count in the statistics."""

    INCLUDE = "include"
    EXCLUDE = "exclude"


AnyFormat = TypeVar("AnyFormat", bound=Enum)

_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".md": "markdown", ".tex": "latex"}
_MEMORY_UNITS = {
    **{"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4},
    **{"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4},
}


def memory(text: str) -> int:
    """Read an amount of memory in bytes: 512MiB, 2GB, 1.5g, 1000000; UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?i?)b?", text.strip().lower())
    unit = _MEMORY_UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"memory is {quoted(text)}; expected a size such as 512MiB or 2GB; change it")
    return int(float(match[1]) * unit)


def whole_numbers(name: str, text: str | None) -> tuple[int, ...]:
    """Read numbers with commas between them; UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{name} is {quoted(text)}; expected whole numbers such as 8,32,128; change it")
    return tuple(int(part) for part in parts)


def batch_size(text: str) -> int | Literal["auto"]:
    """Read a number of samples, or auto; UsageError for anything else."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"-?\d+", text):
        raise UsageError(f"--batch-size is {quoted(text)}; expected a whole number, or auto; change it")
    return int(text)


def choose_format(
    kind: type[AnyFormat],
    format: AnyFormat | None,
    json: bool,
    output: str | None,
    *,
    plot: bool = False,
) -> AnyFormat:
    """Return the format that --format, --json and --plot name, or else the suffix of --output.

    Raises UsageError for options that contradict each other.
    """
    if json and format is not None and format.value not in ("table", "json"):
        raise UsageError(f"--json and --format {format.value} were both given; expected one format; drop one")
    suffix_format = _suffix_format(output)
    by_suffix = suffix_format in [member.value for member in kind] and not plot
    result = kind("json") if json else format or kind(suffix_format if by_suffix else "table")
    if plot and result.value != "table":
        raise UsageError(
            f"--plot and --format {result.value} were both given; a plot is for reading only; drop one"
        )
    return result


def warn_of_suffix(format: Enum, output: str | None, *, plot: bool = False) -> None:
    """Warn in one line if the suffix of --output belongs to another format than is written."""
    suffix_format, written = _suffix_format(output), "a plot" if plot else format.value
    if suffix_format not in (None, written):
        say(f"warning: --output {quoted(output)} ends as {suffix_format} does, but {written} is written")


def _suffix_format(output: str | None) -> str | None:
    return _SUFFIXES.get(Path(output or "").suffix.lower())


def globs(name: str, help: str) -> Any:
    """Declare an option that selects layers by globs; the shell completes the names of layers."""
    return typer.Option(name, metavar="GLOB", help=help, autocompletion=completion.layers)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hub id such as gpt2, a model folder, a GGUF file, or demo: a small real model.",
        autocompletion=completion.models,
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        help="Texts, one sample each. - or a pipe reads standard input, one text a line. The default is "
        "built-in sentences.",
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
        help="Read images, one or more files; the model's own processor scales them. Repeatable.",
    ),
]
Beside = Annotated[
    str | None,
    typer.Option(
        "--beside",
        metavar="MODEL",
        help="Also measure a vision model, such as a CNN, on the images of --image. --revision is "
        "for MODEL only, and so is --attn-implementation.",
        autocompletion=completion.models,
    ),
]
Audio = Annotated[
    list[str] | None,
    typer.Option(
        "--audio",
        metavar="FILE...",
        help="Read sounds, one or more files, as one channel at the model's sampling rate. Repeatable.",
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
        help="Read texts as a stream from a dataset of the Hub (ID or ID:CONFIG), or from a local file or "
        "folder of parquet, arrow or JSON lines.",
    ),
]
Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="The part of the dataset, such as train.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Read at most N samples.")]
Unique = Annotated[bool, typer.Option("--unique", help="Leave out texts that repeat an earlier one exactly.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length", metavar="N", help="Cut texts to N tokens; the default is the model's limit."
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N|auto",
        help="Samples per batch. auto takes texts of 4,096 tokens with their padding, and more on a GPU "
        "that has room. A batch that does not fit in memory runs in halves.",
    ),
]
BatchOrder = Annotated[
    Order,
    typer.Option("--order", help="Batch texts of similar length together, or in the given order."),
]
Special = Annotated[
    SpecialTokens,
    typer.Option(
        "--special-tokens", help="Count [CLS], [SEP] and the like in the statistics, or leave them out."
    ),
]
Layer = Annotated[
    list[str] | None,
    globs("--layer", "Show these layers in detail; JSON and CSV then hold only these. Repeatable."),
]
OnlyLayer = Annotated[list[str] | None, globs("--layer", "Measure only these layers. Repeatable.")]
Exclude = Annotated[list[str] | None, globs("--exclude", "Do not measure these layers. Repeatable.")]
Samples = Annotated[
    int, typer.Option("--samples", metavar="N", help="Keep the statistics of at most N single texts.")
]
TableMemory = Annotated[
    str,
    typer.Option(
        "--table-memory",
        metavar="SIZE",
        help="Maximum memory for the tables that numbers are computed from, such as 512MiB or 2GB.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Top = Annotated[
    int,
    typer.Option("--top", min=1, metavar="K", help="Show at most K rows in a detailed table."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="A branch, tag or commit of the model.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="A Hub token; the default is that of your login."),
]
CacheDir = Annotated[
    str | None, typer.Option("--cache-dir", metavar="PATH", help="The folder of downloaded models.")
]
LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", help="Download nothing: use the cache.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that comes with the model. It can do anything on this machine."
    ),
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
        help="auto spreads the model over all devices and main memory; needs the extra accelerate.",
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
    bool,
    typer.Option("--random-weights", help="Run a model whose checkpoint lacks weights, with random ones."),
]
FORMAT_HELP = "Format of the result; the default is that of the suffix of --output, or else table."
OutputDataFormat = Annotated[DataFormat | None, typer.Option("--format", help=FORMAT_HELP)]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw bars, curves and heat maps in place of tables.")]
OutputPath = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write the result to a file: all of it, or nothing."),
]
MomentsPath = Annotated[
    str | None,
    typer.Option(
        "--moments", metavar="PATH", help="Also write the report with its moments, for normscope merge."
    ),
]
CheckpointPath = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="PATH", help="Save progress periodically, for --resume."),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every",
        metavar="SECONDS",
        min=0.0,
        help="Time between saves; 0 saves after every batch.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue from the checkpoint, or start from the beginning if there is none."
    ),
]
ShardPart = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Take every N-th text, starting with the I-th, for normscope merge."
    ),
]
TensorsPath = Annotated[
    str | None,
    typer.Option(
        "--tensors", metavar="PATH", help="Also write the position x feature tables, as safetensors."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no warnings.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show full names, more about each layer, and all warnings.")
]
