"""Groups of options that commands share; each group is one dataclass and one parameter."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from normscope.cli import options
from normscope.cli import value_parsers as values
from normscope.cli.destinations import Places, checked
from normscope.cli.output import Output

if TYPE_CHECKING:
    from normscope.data.batching import Batching
    from normscope.models.loading import Loaded
    from normscope.models.location import Loading


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Show the parser the options of a command's groups in their place; hand the command the groups."""
    signature = inspect.signature(command)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option.name: given.pop(option.name) for option in fields(group)})
        command(**given)

    seen: Any = called  # functions take any attribute, which their type does not say
    seen.__signature__ = signature.replace(
        parameters=[
            option
            for name, parameter in signature.parameters.items()
            for option in (_options(groups[name]) if name in groups else [parameter])
        ]
    )
    return called


def _options(group: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for option in fields(group):
        name, default = option.name, option.default
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])


@dataclass(frozen=True)
class FetchOptions:
    """Where a model comes from."""

    revision: options.Revision = None
    token: options.Token = field(default=None, repr=False)
    cache_dir: options.CacheDir = None
    local_files_only: options.LocalFilesOnly = False
    trust_remote_code: options.TrustRemoteCode = False

    def loading(self) -> "Loading":
        """Return it as the library has it; UsageError for what cannot be."""
        from normscope.models.location import Loading

        return Loading(**vars(self))


@dataclass(frozen=True)
class LoadOptions(FetchOptions):
    """Where a model comes from, and how it runs."""

    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    attn_implementation: options.AttnImplementation = None
    random_weights: options.RandomWeights = False


@dataclass(frozen=True)
class BatchOptions:
    """How texts become batches."""

    limit: options.Limit = None
    unique: options.Unique = False
    max_length: options.MaxLength = None
    batch_size: options.BatchSize = "32"
    order: options.BatchOrder = options.Order.LENGTH

    def batching(self) -> "Batching":
        """Return it as the library has it; UsageError for what cannot be."""
        from normscope.data.batching import Batching

        size = values.batch_size(self.batch_size)
        return Batching(size, self.max_length, self.order.value, limit=self.limit, unique=self.unique)


@dataclass(frozen=True)
class CountedBatchOptions(BatchOptions):
    """How texts become batches, and which of their tokens count."""

    special_tokens: options.Special = options.SpecialTokens.INCLUDE

    def batching(self) -> "Batching":
        """Return it as the library has it; UsageError for what cannot be."""
        return replace(super().batching(), special_tokens=self.special_tokens.value)


@dataclass(frozen=True)
class LayerOptions:
    """Which layers are measured, and which of them are shown in detail."""

    exclude: options.Exclude = None
    layer: options.Layer = None

    def measured(self, *, as_data: bool) -> dict[str, Any]:
        """Return what the library takes: as data, only the layers that are shown are measured."""
        return {"layers": self.layer or () if as_data else (), "exclude": self.exclude or ()}

    def shown(self, loaded: "Loaded") -> list[str]:
        """Return the names of those in detail, none where none were asked for."""
        from normscope.analyses.inspect import layer_names

        return layer_names(loaded, self.layer, self.exclude or ()) if self.layer else []


@dataclass(frozen=True)
class ResultOptions:
    """How a result is written, and where."""

    format: options.OutputFormat = None
    json: options.Json = False
    output: options.OutputPath = None
    quiet: options.Quiet = False

    def place(self, reads: Places, writes: Places | None = None) -> Output:
        """Return where it goes, as `checked` does."""
        return checked(self.output, reads, writes)

    def chosen(self, plot: bool = False) -> options.Format:
        """Return the format; UsageError for two that contradict each other."""
        found = options.chosen(options.Format, self.format, self.json, self.output, plot=plot)
        if not self.quiet:
            options.tell_suffix(found, self.output, plot=plot)
        return found
