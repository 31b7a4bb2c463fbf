"""Several revisions in `normscope inspect`: a report of each, and a trajectory over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from normscope.cli.interruption import RESULT, handle_signals
from normscope.cli.output import reserve_stdout
from normscope.cli.progress_bar import ProgressBar, wanted
from normscope.cli.provenance import say_notes, with_command
from normscope.cli.report_options import ReportOptions, write_result
from normscope.cli.text_options import readable_texts
from normscope.errors import UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from normscope.data.media_files import Inputs
    from normscope.models.loading import Loaded
    from normscope.models.location import Loading
    from normscope.results.inspect import Report
    from normscope.results.trajectory import Trajectory


def read_revisions(text: str | None) -> list[str]:
    """Return the names between the commas of --revision, none without it; UsageError for an empty one."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if len(names) > 1 and not all(names):
        raise UsageError(f"--revision {quoted(text)} has an empty name; expected a,b,c; drop a comma")
    return names


def require_support(result: ReportOptions, others: Mapping[str, object]) -> None:
    """Raise UsageError for an option that several revisions do not support."""
    refused = {
        **others,
        "--moments": result.moments,
        "--tensors": result.tensors,
        "--plot": result.plot,
        "--details": result.details,
        "--depth": result.depth,
    }
    for option, value in refused.items():
        if value:
            raise UsageError(
                f"{option} was given with several revisions; expected one of them; drop {option}"
            )


def inspect_revisions(
    model: str,
    revisions: Sequence[str],
    loading: "Loading",
    read: "Callable[..., Inputs]",
    result: ReportOptions,
    *,
    piped: bool,
    **arguments: Any,
) -> None:
    """Inspect one revision after the other, and write the trajectory.

    `read` opens the inputs; they are read again for each revision, or kept if they are `piped`.
    """
    feeds = _feeds(read, quiet=result.quiet, piped=piped)
    first = next(feeds)
    rest = chain([first], feeds)
    with handle_signals() as request:
        with (
            reserve_stdout(),
            ProgressBar(model, shown=wanted(result.quiet), plans=result.verbose) as progress,
        ):
            from normscope.analyses.inspect import inspect
            from normscope.analyses.trajectory import follow

            def run(loaded: "Loaded") -> "Report":
                inputs = next(rest)
                texts = None if inputs.texts is None else readable_texts(inputs.texts, loaded)
                media: dict[str, Any] = {"images": inputs.images, "audio": inputs.audio}
                return inspect(loaded, texts, **media, **arguments, progress=progress, stop=request.stop)

            trajectory = follow(model, revisions, run, loading=loading, kinds=first.kinds, stop=request.stop)
        request.finishes = RESULT
        _write(with_command(trajectory), result)
    request.end()


def _write(trajectory: "Trajectory", result: ReportOptions) -> None:
    from normscope.render.trajectory import render_trajectory, render_trajectory_markdown

    renderers = render_trajectory, render_trajectory_markdown
    write_result(trajectory, result.chosen_format(), result.destination, *renderers)
    say_notes(trajectory, quiet=result.quiet, verbose=result.verbose)


def _feeds(read: "Callable[..., Inputs]", *, quiet: bool, piped: bool) -> "Iterator[Inputs]":
    """Yield the inputs of one revision after the other."""
    inputs = read(quiet=quiet)
    if piped and inputs.texts is not None:
        inputs = replace(inputs, texts=[*inputs.texts])  # A pipe can be read once.
    while True:
        yield inputs
        inputs = inputs if piped else read(quiet=True)
