"""Print what the hooks and the command line cost, as ratios of things run in turn, median of many."""

import argparse
import json
import platform
import statistics
from datetime import date
from functools import partial
from pathlib import Path

from tests.benchmarks import hooks, memory, others, profile, start, swap, training

BENCHMARKS = {
    **{
        f"hooked / bare, {size}, {threads} thread{'s' * (threads > 1)}{way}": taking(partial(run, threads))
        for size, run in (("MiniLM", hooks.minilm), ("BERT-base size", hooks.bert_base))
        for threads in (1, 2)
        for way, taking in ((", numba", hooks.in_one_pass), ("", hooks.by_operators))
    },
    "ms in the hooks of a call, MiniLM, numba": hooks.in_one_pass(
        hooks.milliseconds("normscope.capture.recorder", "Recorder._read")
    ),
    "ms in its compiled loops": hooks.in_one_pass(
        hooks.milliseconds("normscope.capture.numba_kernels", "sum_call")
    ),
    "script by hand / bare forward, MiniLM": others.script_over_bare,
    "kept by hooks, then reduced / bare": others.kept("hooks"),
    "kept by captum, then reduced / bare": others.kept("captum"),
    "kept by nnsight, then reduced / bare": others.kept("nnsight"),
    "script by hand / inspect, 1,000 sentences": others.whole_run,
    "swap / (layers + 2) bare, Llama, 1 thread": swap.over_bare(1),
    "swap / (layers + 2) bare, Llama, 2 threads": swap.over_bare(2),
    "measured / bare training step, MiniLM": training.minilm,
    "measured / bare training step, BERT-base size": training.bert_base,
    "every=100 / bare training, MiniLM": training.of_every_100(training.minilm),
    "inspect demo / smallest script, CPU": start.inspect_ratio,
    "normscope --help, CPU seconds": start.help_seconds,
    "peak memory, 100,000 / 2,000 texts": memory.growth("inspect"),
    "the same of why": memory.growth("why", rounds=1),
    "the same of batches": memory.growth("batches", rounds=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures here")
    parser.add_argument("--only", default="", metavar="WORDS", help="run those whose name holds this")
    parser.add_argument("--profile", action="store_true", help="show instead where the hooks' time goes")
    options = parser.parse_args()
    if options.profile:
        profile.show()
        return
    figures = {}
    chosen = {name: run for name, run in BENCHMARKS.items() if options.only in name}
    for name, run in chosen.items():
        values = run()
        if not values:
            print(f"{name:42} not installed")
            continue
        figures[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        print(f"{name:42} {statistics.median(values):6.3f}  ({min(values):.3f} to {max(values):.3f})")
    if options.json:
        about = {"date": date.today().isoformat(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**about, "figures": figures}, indent=2), encoding="utf-8")


main()
