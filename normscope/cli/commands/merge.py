"""`normscope merge`: one exact report from the parts of one corpus."""

from typing import Annotated

import typer

from normscope.cli import options
from normscope.cli.option_groups import grouped
from normscope.cli.report_options import ReportOptions, named

EPILOG = """\b
Examples:
  normscope inspect gpt2 -f part1.txt --moments part1.safetensors -q
  normscope inspect gpt2 -f part2.txt --moments part2.safetensors -q
  normscope merge part1.safetensors part2.safetensors
  normscope merge part*.safetensors --json -o whole.json
  normscope merge part*.safetensors --plot
  normscope merge part*.safetensors --moments half.safetensors -q

\b
A PART is a report that was written with --moments: it holds all that was
counted and summed, in float64, so that parts give the numbers that one run
over all texts would have given, in any order. Which texts share a batch
changes float32 results in the last digits, as it does in one run.

\b
Parts must be of one model (id, revision, commit, dtype, parameters), its
layers of one kind, and --special-tokens, --max-length, --per-call, --words
and the layers that were measured must be the same: if not, one line says
which field differs. The tables are those of normscope inspect, whose --help
explains the columns and --plot. Padding and batches are those of the parts.
A --shard that is given twice, under whatever name, gets a warning.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, parts that differ included."""

Parts = Annotated[
    list[str], typer.Argument(metavar="PART...", help="Reports that inspect --moments or merge wrote.")
]


@grouped
def merge(parts: Parts, *, layer: options.Layer = None, result: ReportOptions) -> None:
    """Make one report out of the parts of one corpus, exactly."""
    result.check({"PART": parts})
    from normscope.analyses.merge import merge as merged
    from normscope.norms.detection import select

    report = merged(parts)
    modules = [found.module_name for found in report.layers.values()]
    shown = named(report, select(modules, layer)) if layer else []
    result.write(report, shown)
