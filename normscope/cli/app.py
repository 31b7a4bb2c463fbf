"""The `normscope` command: its commands and its version."""

import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from normscope._version import __version__
from normscope.cli.commands import batches, compare, explain, inspect, layers, merge, report, swap, why
from normscope.cli.completion import VARIABLE
from normscope.cli.exit_codes import full_disk, guard
from normscope.cli.help_sections import Sectioned


class _Guarded(TyperGroup):
    """A group whose commands end by the exit codes that are documented."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run with a full disk in mind: help and version are printed before any command begins."""
        with full_disk():
            return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the options before the command under the guard."""
        with guard():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command under the guard."""
        with guard():
            return super().invoke(ctx)


class _Command(Sectioned):
    """A command whose --image and --audio take all files that follow, as a shell makes of `--image *.png`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, with the option put before each of the files that follow its first."""
        return super().parse_args(ctx, list(_repeated(args)))


def _repeated(arguments: list[str]) -> Iterator[str]:
    option, takes_next = None, False
    for argument in arguments:
        if argument in ("--image", "--audio"):
            option, takes_next = argument, True
        elif option and not takes_next and _is_file(argument):
            yield option
        else:
            option, takes_next = option if takes_next else None, False
        yield argument


def _is_file(argument: str) -> bool:
    """Whether an argument names a file; a text may be too long for a name, or hold what no name may."""
    try:
        return Path(argument).is_file()
    except (OSError, ValueError):
        return False


class _App(typer.Typer):
    """An app whose commands list their options in sections."""

    def command(self, *names: Any, **settings: Any) -> Any:
        """Register a command, as typer does."""
        return super().command(*names, **{"cls": _Command, **settings})


# Plain help: it starts in half the time of the rich one, and reads the same in a pipe.
app = _App(
    cls=_Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # Values for the group's own flags spare typer the import of pydantic, half of the time of a --help.
    context_settings={
        "help_option_names": ["--help", "-h"],
        "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False),
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normscope {__version__}")
        raise typer.Exit


@app.callback()
def normscope(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """BatchNorm-style beside LayerNorm-style statistics of a pretrained model.

    Loads a Hugging Face model, feeds it text, and measures every normalization layer.
    """


app.command(
    "inspect", short_help="Show what every normalization layer does to texts.", epilog=inspect.EPILOG
)(inspect.inspect)
app.command("layers", short_help="List the normalization layers; no weights are read.", epilog=layers.EPILOG)(
    layers.layers
)
app.command(
    "batches", short_help="Show what BatchNorm would see in batches of texts.", epilog=batches.EPILOG
)(batches.batches)
app.command("swap", short_help="Replace layers by BatchNorm and measure what breaks.", epilog=swap.EPILOG)(
    swap.swap
)
app.command("why", short_help="Try the article's claims on a model and texts.", epilog=why.EPILOG)(why.why)
app.command("compare", short_help="Show how far two reports are apart, or fail.", epilog=compare.EPILOG)(
    compare.compare
)
app.command("merge", short_help="Make one report of the parts of a corpus.", epilog=merge.EPILOG)(merge.merge)
app.command("report", short_help="Make a page or a picture of saved results.", epilog=report.EPILOG)(
    report.report
)
app.command("explain", short_help="Say what a number of the reports is.", epilog=explain.EPILOG)(
    explain.explain
)


def main() -> None:
    """Run the command line, or complete one: then whatever goes wrong is not printed into it."""
    with suppress(Exception) if VARIABLE in os.environ else nullcontext():
        app(prog_name="normscope")
