"""`normscope merge`: one exact report from the parts of one corpus."""

from typing import Annotated

import typer

from normscope.cli import options
from normscope.cli.option_groups import grouped
from normscope.cli.report_options import ReportOptions, names_of

EPILOG = """\b
Examples:
  normscope inspect gpt2 -f part1.txt --moments part1.safetensors -q
  normscope inspect gpt2 -f part2.txt --moments part2.safetensors -q
  normscope merge part1.safetensors part2.safetensors
  normscope merge part*.safetensors --json -o whole.json
  normscope merge part*.safetensors --plot
  normscope merge part*.safetensors --moments half.safetensors -q

A PART is a report that was written with --moments. It holds all counts and sums, in float64, so parts in
any order give the numbers of one run over all texts. How texts are put into batches changes the last digits
of float32 results, as it does in one run.

All parts must have the same model (id, revision, commit, dtype, parameters), the same kinds of layers, the
same measured layers, and the same --special-tokens, --max-length, --per-call, --words and --curve. If not,
one line names the field that differs. The tables are those of normscope inspect; normscope inspect
--help-all says what --plot draws. The padding and the batches are those of the parts. A --shard that is
given twice, under any file name, causes a warning.

Exit codes: 0 done, 1 failed, 2 wrong usage or parts that differ."""

Parts = Annotated[
    list[str], typer.Argument(metavar="PART", help="Reports that inspect --moments or merge wrote.")
]


@grouped
def merge(parts: Parts, *, layer: options.Layer = None, result: ReportOptions) -> None:
    """Make one exact report from the parts of one corpus."""
    result.check({"PART": parts})
    from normscope.analyses.merge import merge as merged
    from normscope.norms.detection import select

    report = merged(parts)
    modules = [measured.module_name for measured in report.layers.values()]
    result.write(report, names_of(report, select(modules, layer)) if layer else [])
