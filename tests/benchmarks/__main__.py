"""Print what the hooks and the command line cost, as ratios of things run in turn, median of many."""

import argparse
import json
import platform
import statistics
from datetime import date
from pathlib import Path

from tests.benchmarks import hooks, memory, start

BENCHMARKS = {
    "hooked / bare forward, MiniLM": hooks.minilm,
    "hooked / bare forward, BERT-base size": hooks.bert_base,
    "inspect demo / smallest script, CPU": start.inspect_ratio,
    "normscope --help, CPU seconds": start.help_seconds,
    "peak memory, 100,000 / 2,000 texts": memory.growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures here")
    path = parser.parse_args().json
    figures = {}
    for name, run in BENCHMARKS.items():
        values = run()
        figures[name] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
        print(f"{name:40} {statistics.median(values):6.3f}  ({min(values):.3f} to {max(values):.3f})")
    if path:
        about = {"date": date.today().isoformat(), "python": platform.python_version()}
        path.write_text(json.dumps({**about, "figures": figures}, indent=2), encoding="utf-8")


main()
