"""A command class with a short --help, and a --help-all with sections of options, as manual pages have."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_ALL = "normscope.help_all"  # the context's note that --help-all was given
_MAX_EXAMPLES = 4  # in --help
_NAME_WIDTH = 26  # an option with a longer name gets a line of its own
# The options that users of a command need first, in this order, by their names in Python.
MOST_USED = {
    "inspect": ("file", "image", "limit", "special_tokens", "layer", "plot", "json", "output"),
    "layers": ("layer", "exclude", "readers", "format", "json", "output", "verbose", "revision"),
    "batches": ("file", "limit", "max_length", "sizes", "layer", "plot", "json", "output"),
    "swap": ("file", "calibration", "kind", "layer", "fold", "save", "json", "output"),
    "why": ("file", "limit", "samples", "beside", "image", "layer", "json", "output"),
    "compare": ("fail_above", "top", "format", "json", "output", "quiet"),
    "track": ("fail_above", "top", "format", "json", "output", "quiet"),
    "merge": ("layer", "top", "plot", "format", "json", "output", "moments", "quiet"),
    "report": ("output", "chart", "layer"),
    "explain": ("schema", "bibtex", "format", "json", "output"),
}
# What to ask `explain` for, to read what a command's numbers mean.
EXPLAINED = {
    **{name: name for name in ("inspect", "layers", "batches", "swap", "why", "compare", "track")},
    "merge": "inspect",
}
# The options of each section in their order, by their names in Python; options of no section come last.
SECTIONS = {
    "Input": (
        "file", "calibration", "dataset", "split", "field", "chat_template", "beside", "image", "audio",
        "limit", "unique", "max_length",
    ),
    "Layers": ("layer", "exclude", "per_call", "readers"),
    "Measuring": (
        "sizes", "draws", "momentum", "kind", "first", "cumulative", "recalibrate", "words", "curve",
        "samples", "table_memory", "seed", "batch_size", "order", "special_tokens", "exclude_tokens",
        "skip_first", "drop_massive", "roles", "dry_run",
    ),
    "Long runs": ("checkpoint", "checkpoint_every", "resume", "shard"),
    "Output": (
        "schema", "bibtex", "fail_above", "chart", "details", "depth", "rows", "top", "fold", "save",
        "format", "json", "plot", "output", "moments", "tensors", "quiet", "verbose",
    ),
    "Loading the model": (
        "revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "device", "device_map",
        "dtype", "attn_implementation", "random_weights",
    ),
}  # fmt: skip


class Sectioned(TyperCommand):
    """A command whose --help lists the most used options, and whose --help-all lists all, by section."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        parameters = self.get_params(ctx)
        arguments = [each for each in parameters if each.param_type_name == "argument"]
        options = {each.name: each for each in parameters if each.param_type_name == "option"}
        _write_section(ctx, formatter, "Arguments", arguments)
        if not ctx.meta.get(_ALL):
            _write_section(ctx, formatter, "Options", [options[name] for name in MOST_USED[ctx.info_name]])
            return
        for title, names in SECTIONS.items():
            _write_section(ctx, formatter, title, [options.pop(name) for name in names if name in options])
        _write_section(ctx, formatter, "Other", [*options.values()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write a few examples, or the whole epilog, and the commands that say more."""
        text = self.epilog or ""
        if not ctx.meta.get(_ALL):
            mark, title, *examples = text.partition("\n\n")[0].splitlines()
            text = "\n".join([mark, title, *examples[:_MAX_EXAMPLES]])
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        formatter.write_paragraph()
        if ctx.info_name in EXPLAINED:
            formatter.write(f"what its numbers mean: normscope explain {EXPLAINED[ctx.info_name]}\n")
        if not ctx.meta.get(_ALL):
            formatter.write(f"all options: {ctx.command_path} --help-all\n")


def _write_section(ctx: Any, formatter: Any, title: str, parameters: list[Any]) -> None:
    if parameters:
        with formatter.section(title):
            formatter.write_dl([_record(parameter, ctx) for parameter in parameters], _NAME_WIDTH)


def _record(parameter: Any, ctx: Any) -> tuple[str, str]:
    """Return a parameter's name and help; typer adds an argument's type in Python, which says little."""
    name, text = parameter.get_help_record(ctx)
    return (name.partition(" <")[0] if parameter.param_type_name == "argument" else name), text


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


_HelpAll = Annotated[
    bool, typer.Option("--help-all", help="Show all options and exit.", is_eager=True, callback=_show_all)
]


def with_help_all(command: Callable[..., None]) -> Callable[..., None]:
    """Add --help-all to a command, whose function is not called with it."""
    signature = inspect.signature(command)
    option = inspect.Parameter("help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_HelpAll)

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        del values["help_all"]
        command(**values)

    parsed: Any = wrapper  # mypy knows no __signature__ of a function
    parsed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    return wrapper
