"""Groups of options that commands share: each is one dataclass, and one parameter of a command."""

import functools
import inspect
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.models import ArgumentInfo

from normscope.cli import options, token_options
from normscope.cli.destinations import PathsByOption, checked_output
from normscope.cli.output import Output

if TYPE_CHECKING:
    from normscope.data.batching import Batching
    from normscope.models.loading import Loaded
    from normscope.models.location import Loading


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Show the parser the options of a command's groups, and call the command with the groups."""
    signature = inspect.signature(command)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in fields(group)})
        command(**values)

    parsed: Any = wrapper  # mypy knows no __signature__ of a function
    parsed.__signature__ = signature.replace(
        parameters=[
            option
            for name, parameter in signature.parameters.items()
            for option in (_options(groups[name]) if name in groups else [parameter])
        ]
    )
    return wrapper


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for option in fields(group):
        name, default = option.name, option.default
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])


def command_line(*groups: Any) -> str:
    """Return what the user gave for groups as a shell takes it: no default value, and no secret."""
    options, arguments = [], []
    for group in groups:
        hints = get_type_hints(type(group), include_extras=True)
        for option in fields(group):
            value = getattr(group, option.name)
            if value == option.default or not option.repr:
                continue
            declaration = hints[option.name].__metadata__[0]
            if isinstance(declaration, ArgumentInfo):
                arguments += value
            else:
                options += _words(declaration.default, value)
    end = ["--"] if any(text.startswith("-") and text != "-" for text in arguments) else []
    return shlex.join([*options, *end, *arguments])


def _words(name: str, value: Any) -> list[str]:
    """Return an option and its value, or several of them, as words of a command line."""
    if value is True:
        return [name]
    if isinstance(value, list):
        return [word for each in value for word in (name, each)]
    return [name, str(value.value if isinstance(value, Enum) else value)]


@dataclass(frozen=True)
class FetchOptions:
    """The source of a model."""

    revision: options.Revision = None
    token: options.Token = field(default=None, repr=False)
    cache_dir: options.CacheDir = None
    local_files_only: options.LocalFilesOnly = False
    trust_remote_code: options.TrustRemoteCode = False

    def loading(self) -> "Loading":
        """Return these options for the library; UsageError for values that it refuses."""
        from normscope.models.location import Loading

        return Loading(**vars(self))


@dataclass(frozen=True)
class LoadOptions(FetchOptions):
    """The source of a model, and how it runs."""

    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    attn_implementation: options.AttnImplementation = None
    random_weights: options.RandomWeights = False


@dataclass(frozen=True)
class BatchOptions:
    """The options that make batches of texts."""

    limit: options.Limit = None
    unique: options.Unique = False
    max_length: options.MaxLength = None
    batch_size: options.BatchSize = "32"
    order: options.BatchOrder = options.Order.LENGTH
    exclude_tokens: token_options.ExcludeTokens = None
    skip_first: token_options.SkipFirst = 0
    drop_massive: token_options.DropMassive = False
    roles: token_options.Roles = None

    def batching(self, *, chat: bool = False) -> "Batching":
        """Return these options for the library; UsageError for values that it refuses.

        With `chat` the texts are conversations.
        """
        from normscope.data.batching import Batching

        return Batching(
            options.batch_size(self.batch_size),
            self.max_length,
            self.order.value,
            limit=self.limit,
            unique=self.unique,
            exclude_tokens=token_options.token_names("--exclude-tokens", self.exclude_tokens),
            skip_first=self.skip_first,
            drop_massive=self.drop_massive,
            chat_template=chat,
            roles=token_options.names("--roles", self.roles),
        )


@dataclass(frozen=True)
class CountedBatchOptions(BatchOptions):
    """The options that make batches of texts, and choose which of their tokens count."""

    special_tokens: options.Special = options.SpecialTokens.INCLUDE

    def batching(self, *, chat: bool = False) -> "Batching":
        """Return these options for the library; UsageError for values that it refuses."""
        return replace(super().batching(chat=chat), special_tokens=self.special_tokens.value)


@dataclass(frozen=True)
class LayerOptions:
    """The options that choose layers to measure, and layers to show in detail."""

    exclude: options.Exclude = None
    layer: options.Layer = None

    def selection(self, *, as_data: bool) -> dict[str, Any]:
        """Return the library's arguments: for data, only the layers of --layer are measured."""
        return {"layers": self.layer or () if as_data else (), "exclude": self.exclude or ()}

    def detail_names(self, loaded: "Loaded") -> list[str]:
        """Return the names of the layers to show in detail, none without --layer."""
        from normscope.analyses.inspect import layer_names

        return layer_names(loaded, self.layer, self.exclude or ()) if self.layer else []


@dataclass(frozen=True)
class _OutputOptions:
    """The destination of a result."""

    json: options.Json = False
    output: options.OutputPath = None
    quiet: options.Quiet = False

    def destination(self, reads: PathsByOption, writes: PathsByOption | None = None) -> Output:
        """Return the destination, as `checked_output` does."""
        return checked_output(self.output, reads, writes)


@dataclass(frozen=True)
class DataResultOptions(_OutputOptions):
    """The format and the destination of a result that is also tidy data."""

    format: options.OutputDataFormat = None

    def chosen_format(self, plot: bool = False) -> options.DataFormat:
        """Return the format; UsageError for options that contradict each other."""
        chosen = options.choose_format(options.DataFormat, self.format, self.json, self.output, plot=plot)
        if not self.quiet:
            options.warn_of_suffix(chosen, self.output, plot=plot)
        return chosen


class OutlineFormat(str, Enum):
    """The format of a list of layers; `mappings` is the JSON of SmoothQuant and AWQ recipes."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    MAPPINGS = "mappings"


@dataclass(frozen=True)
class OutlineOptions(_OutputOptions):
    """The format and the destination of a list of layers."""

    format: Annotated[OutlineFormat | None, typer.Option("--format", help=options.FORMAT_HELP)] = None

    def chosen_format(self) -> OutlineFormat:
        """Return the format; UsageError for options that contradict each other."""
        chosen = options.choose_format(OutlineFormat, self.format, self.json, self.output)
        if not self.quiet and chosen is not OutlineFormat.MAPPINGS:  # These are JSON, too.
            options.warn_of_suffix(chosen, self.output)
        return chosen
