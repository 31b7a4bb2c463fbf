"""`normscope compare`: the differences of two reports, layer by layer, and a gate on them."""

from typing import TYPE_CHECKING, Annotated

import typer

from normscope.cli import completion, options
from normscope.cli.destinations import checked_output
from normscope.cli.output import announce, say, warn
from normscope.cli.provenance import with_command
from normscope.cli.report_options import write_result
from normscope.escaping import counted

if TYPE_CHECKING:
    from normscope.analyses.compare import Bound
    from normscope.results.compare import Comparison
    from normscope.results.track import Track

_CROSSED = 3

EPILOG = """\b
Examples:
  normscope compare before.json after.json
  normscope compare fp32.json int8.json --fail-above bn_drift.mean=0.05 -q
  normscope compare before.json after.json --fail-above headroom_change=1
  normscope compare news.json code.json --format markdown
  normscope compare a.json b.json --json | jq '.layers[0] | {name, bn_drift}'

A and B are reports that normscope inspect wrote with --json or --moments: of two models, two corpora, two
checkpoints, or before and after quantization. Layers are matched by name; layers without a match are
matched by their order. The layers that moved most come first. No model is loaded.

--fail-above METRIC=VALUE makes the command a gate: if the size of METRIC is above VALUE in any layer, the
exit code is 3, and standard error names these layers. METRIC is one of bn_drift.mean, bn_drift.variance,
ln_drift.mean, ln_drift.variance, agreement_change, position_change, mean_share_change and
mean_share_energy_change; or, in powers of two, largest_input_change, largest_output_change, headroom_change,
residual_rms_change and kurtosis_change. A layer that has no such number, or is in only one report, cannot be
tested: a warning says how many there are. normscope explain headroom_change has the formula and source.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate was crossed."""

A = Annotated[str, typer.Argument(metavar="A", help="The first report, JSON or with moments.")]
B = Annotated[str, typer.Argument(metavar="B", help="The second report, which is compared with A.")]
FailAbove = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-above",
        metavar="METRIC=VALUE",
        help="Exit with code 3 if METRIC is above VALUE in any layer. Repeatable.",
        autocompletion=completion.gates,
    ),
]
Top = Annotated[int, typer.Option("--top", min=1, metavar="K", help="Show at most K layers.")]


def compare(
    a: A,
    b: B,
    fail_above: FailAbove = None,
    top: Top = 20,
    format: options.OutputDataFormat = None,
    json: options.Json = False,
    output: options.OutputPath = None,
    quiet: options.Quiet = False,
) -> None:
    """Show how far apart two reports are, layer by layer; with --fail-above, fail if it is too far."""
    destination = checked_output(output, {"A": [a], "B": [b]})
    output_format = options.choose_format(options.DataFormat, format, json, output)
    if not quiet:
        options.warn_of_suffix(output_format, output)
    from normscope.analyses.compare import Bound
    from normscope.analyses.compare import compare as run

    gates = [Bound.read(text) for text in fail_above or ()]
    announce(() if quiet else (a, b))
    comparison = with_command(run(a, b))
    from normscope.render.compare import render_comparison, render_comparison_markdown

    write_result(
        comparison, output_format, destination, render_comparison, render_comparison_markdown, top=top
    )
    if not quiet:
        warn(comparison.warnings, verbose=True)
    if is_crossed(gates, comparison):
        raise typer.Exit(_CROSSED)


def is_crossed(gates: "list[Bound]", comparison: "Comparison | Track") -> bool:
    """Name the layers that are above a gate, and warn of those that it cannot test."""
    crossed = [line for gate in gates for line in gate.crossed(comparison)]
    for gate in gates:
        untested = gate.untested(comparison)
        if untested:
            layers = counted(len(untested), "layer")
            say(f"warning: {gate.metric} is unknown at {layers}, the first {untested[0]}")
    for line in crossed:
        say(f"failed: {line}")
    return bool(crossed)
