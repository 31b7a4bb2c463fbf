"""Run the examples on the article's claims, and write the results into the table of examples/README.md.

Run: python examples/update.py [SCRIPT]... [--quick] [--readme PATH] [--pictures FOLDER]   (seven minutes)
"""

import argparse
import contextlib
import datetime
import io
import json
import platform
import re
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "what_bn_pools.py",
    "variable_length.py",
    "mlp_rnn_transformer.py",
    "cnn_vs_nlp.py",
    "freeze_layernorm.py",
)
BEGIN, END = "<!-- table: begin, written by update.py -->", "<!-- table: end -->"
HEAD = (
    "| claim | quantity | null, and rule | on | found, 95% interval | verdict | where |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
RUNS = ("| run | on | with | CPU time |", "| --- | --- | --- | --- |")


def run(script: str, arguments: list[str]) -> str:
    """Run one example as the command line does, in this process; print and return what it prints."""
    printed, given = io.StringIO(), sys.argv
    sys.argv = [str(HERE / script), *arguments]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.argv = given
        print(f"== {script}\n{printed.getvalue()}", flush=True)
    return printed.getvalue()


def rows_of(script: str, quick: bool, pictures: Path) -> list[dict[str, str]]:
    """Run one example and return its rows of the table."""
    arguments = ["--quick"] if quick else []
    if script == "freeze_layernorm.py":  # It has an answer on each of two models, and no interval.
        demo, small = run(script, arguments).splitlines()[:2]
        claim = "8 A fixed scale can replace LayerNorm; after training, BatchNorm is one."
        quantity = "norms frozen and folded into the Linears after them, while the loss grows by under 1%"
        small = re.sub(r", \S+ as fast", "", small)  # A time has no interval here.
        return [
            {
                "claim": claim,
                "quantity": quantity,
                "null": "-",
                "on": "1 model each",
                "found": f"{demo}; {small}",
                "verdict": "depends on the model",
            }
        ]
    rows = pictures / f"{Path(script).stem}.json"
    run(script, [*arguments, "--picture", str(rows.with_suffix(".png")), "--rows", str(rows)])
    found: list[dict[str, str]] = json.loads(rows.read_text(encoding="utf-8"))
    rows.unlink()
    return found


def run_cells(seconds: float, quick: bool) -> str:
    """Return the date, the versions and the CPU time of a run."""
    names = ("torch", "transformers", "normscope")
    versions = ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    )
    form = ", reduced" if quick else ""
    return f"{datetime.date.today()}{form} | {versions} | {seconds:.0f} s"


def table(old: str, scripts: Sequence[str], quick: bool, pictures: Path) -> str:
    """Run examples and return the table, in the order of the claims; rows of other examples stay."""
    ours = tuple(f"[{script}]({script}) |" for script in scripts)
    kept = [line for line in old.splitlines() if line.startswith("| ") and not line.endswith(ours)]
    lines = [line for line in kept if line[2:3].isdigit()]
    runs = [
        line for line in kept if line.startswith("| [") and not line.startswith(tuple(f"| {o}" for o in ours))
    ]
    for script in scripts:
        begun = time.process_time()
        where = f"[{script}]({script})"
        for row in rows_of(script, quick, pictures):
            cells = [cell.replace("|", "\\|") for cell in row.values()]
            lines.append(f"| {' | '.join(cells)} | {where} |")
        runs.append(f"| {where} | {run_cells(time.process_time() - begun, quick)} |")
    return "\n".join([*HEAD, *sorted(lines), "", *RUNS, *sorted(runs), ""])


def main() -> None:
    """Run the examples and replace the table between its marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="only these; all without any")
    parser.add_argument("--quick", action="store_true", help="every example in its reduced form, in a minute")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="the file with the table")
    parser.add_argument("--pictures", type=Path, help="a folder to keep the pictures in")
    args = parser.parse_args()
    if not set(args.scripts) <= set(SCRIPTS):
        parser.error(f"got {' '.join(args.scripts)}; expected some of {' '.join(SCRIPTS)}")
    before, begin, rest = args.readme.read_text(encoding="utf-8").partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{args.readme} has no table; expected the lines {BEGIN!r} and {END!r}; add them")
    with tempfile.TemporaryDirectory() as folder:
        new = table(old, args.scripts or SCRIPTS, args.quick, args.pictures or Path(folder))
    args.readme.write_text(f"{before}{BEGIN}\n{new}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
