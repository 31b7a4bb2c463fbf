"""The `normscope` program: its commands and its version."""

import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from normscope._version import __version__
from normscope.cli.commands import batches, compare, explain, inspect, layers, merge, report, swap, track, why
from normscope.cli.completion import VARIABLE
from normscope.cli.exit_codes import full_disk, guard
from normscope.cli.help_sections import Sectioned, with_help_all
from normscope.cli.provenance import note_command


class _Guarded(TyperGroup):
    """A group whose commands end with the documented exit codes."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run under the guard against a full disk, since help and version are printed before any command."""
        with full_disk():
            return super().main(*args, **options)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Parse the command line under the guard."""
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
        note_command([ctx.info_name, *args])
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


# Plain help starts in half the time of rich help, and is the same in a pipe.
app = typer.Typer(
    cls=_Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # With values for the group's own flags typer does not import pydantic, half of the time of --help.
    context_settings={
        "help_option_names": ["--help", "-h"],
        "max_content_width": 100,
        "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False),
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normscope {__version__}")
        raise typer.Exit


@app.callback(epilog="normscope COMMAND --help shows the most used options, and --help-all shows all.")
def normscope(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Measure a model's normalization layers on your texts, LayerNorm-style and BatchNorm-style.

    \b
    What do you want to do?
      try it              normscope inspect demo
      understand a model  normscope inspect gpt2 -f corpus.txt
      ask why LayerNorm   normscope why gpt2 -f corpus.txt
      put BatchNorm in    normscope swap gpt2 -f corpus.txt
      use it in a pipe    normscope inspect gpt2 --json | jq '.layers[0].token'
      fold norms away     normscope swap gpt2 --kind frozen --fold --save DIR
      publish a page      normscope report inspect.json -o page.html
      watch a training    in Python: callbacks=[normscope.NormCallback(every=100)]
    """


for module, summary in {
    inspect: "Show what every normalization layer does to texts.",
    layers: "List the normalization layers; no weights are read.",
    batches: "Show what BatchNorm would see in batches of texts.",
    swap: "Replace layers by BatchNorm and measure what breaks.",
    why: "Test an article's claims on a model and texts.",
    compare: "Show how far apart two reports are, or fail.",
    track: "Show which layers moved in a training, or fail.",
    merge: "Make one report from the parts of a corpus.",
    report: "Make a page or a picture of saved results.",
    explain: "Explain the numbers of the reports.",
}.items():
    name = module.__name__.rpartition(".")[2]
    command = with_help_all(getattr(module, name))
    app.command(name, cls=_Command, short_help=summary, epilog=module.EPILOG)(command)


def main() -> None:
    """Run a command line, or complete one: errors of a completion are suppressed."""
    with suppress(Exception) if VARIABLE in os.environ else nullcontext():
        app(prog_name="normscope")
