"""`normscope compare`: two reports side by side, and a gate on their differences."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import completion, options
from normscope.cli.destinations import checked
from normscope.cli.output import Output, announce, say, warn
from normscope.cli.report_options import as_data
from normscope.escaping import counted

if TYPE_CHECKING:
    from normscope.analyses.compare import Bound
    from normscope.results.compare import Comparison

_CROSSED = 3

EPILOG = """\b
Examples:
  normscope compare before.json after.json
  normscope compare news.json code.json --format markdown
  normscope compare fp32.json int8.json --fail-above bn_drift.mean=0.05 -q
  normscope compare a.json b.json --json | jq '.layers[0] | {name, bn_drift}'

\b
A and B are reports that normscope inspect wrote with --json or --moments: of
two models, two corpora, two checkpoints, or before and after quantization.
Layers are matched by name, and those that are left by their order. The layers
that moved most come first; no model is loaded.

{columns}

\b
--fail-above METRIC=VALUE makes it a gate: with any layer whose METRIC is
above VALUE in size, the exit code is 3, and standard error names them.
METRIC is one of bn_drift.mean, bn_drift.variance, ln_drift.mean,
ln_drift.variance, agreement_change, position_change. Layers without that
number, or in one report alone, cannot be tested: a warning says how many.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate was crossed.
normscope explain bn_drift.mean has the formula and source."""

A = Annotated[str, typer.Argument(metavar="A", help="The report to compare with, JSON or with moments.")]
B = Annotated[str, typer.Argument(metavar="B", help="The report that is compared.")]
_FailAbove = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-above",
        metavar="METRIC=VALUE",
        help="Exit with 3 if a layer is above that. Repeatable.",
        autocompletion=completion.gates,
    ),
]
Top = Annotated[int, typer.Option("--top", min=1, metavar="K", help="Most layers in the table.")]


def compare(
    a: A,
    b: B,
    fail_above: _FailAbove = None,
    top: Top = 20,
    format: options.OutputDataFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how far two reports are apart, layer by layer; or fail when it is too far."""
    place = checked(output, {"A": [a], "B": [b]})
    found = options.chosen(options.DataFormat, format, json, output)
    if not quiet:
        options.tell_suffix(found, output)
    from normscope.analyses.compare import Bound
    from normscope.analyses.compare import compare as compared

    gates = [Bound.read(text) for text in fail_above or ()]
    announce(() if quiet else (a, b))
    comparison = compared(a, b)
    place.write(_rendered(comparison, found, place, top))
    if not quiet:
        warn(comparison.warnings, verbose=True)
    if _crossed(gates, comparison):
        raise typer.Exit(_CROSSED)


def _crossed(gates: "list[Bound]", comparison: "Comparison") -> bool:
    """Name the layers that are above a gate; warn of those that it cannot test."""
    crossed = [line for gate in gates for line in gate.crossed(comparison)]
    for gate in gates:
        missing = gate.untested(comparison)
        if missing:
            where = counted(len(missing), "layer")
            say(f"warning: {gate.metric} is unknown at {where}, the first {missing[0]}")
    for line in crossed:
        say(f"failed: {line}")
    return bool(crossed)


def _rendered(
    comparison: "Comparison", format: options.DataFormat, place: Output, top: int
) -> str | Iterable[str]:
    if format.is_data:
        return as_data(comparison, format, place)
    from normscope.render.compare import render_comparison, render_comparison_markdown

    if format is options.DataFormat.MARKDOWN:
        return render_comparison_markdown(comparison, top=top)
    return render_comparison(comparison, top=top, screen=place.screen())
