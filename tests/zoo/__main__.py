"""Run the zoo: `python -m tests.zoo [TYPE ...] [--output TABLE.md] [--json RECORDS.json]`.

Every type runs in a process of its own, one after the other, so that a crash or a hang ends that type
alone. The table goes to standard output or the file, a line a type to standard error.
"""

import argparse
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.zoo.build import build, types
from tests.zoo.check import Failure, Record, check

# Seconds after which a step is given up, and after which the process is ended; bytes it may take.
PATIENCE, LIMIT, MEMORY = 30, 70, 12 << 30


def main() -> None:
    """Run the types that are named, all by default, and write what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--output", type=Path, help="the Markdown table's file instead of standard output")
    parser.add_argument("--json", type=Path, help="a file for the records as JSON")
    given = parser.parse_args()
    started, records = time.perf_counter(), []
    for kind in given.types or types():
        records.append(run(kind))
        print(progress(records[-1]), file=sys.stderr, flush=True)
    text = f"{table(records)}\n{summary(records)}\n{time.perf_counter() - started:.0f} seconds.\n"
    if given.output:
        given.output.write_text(text)
        print(summary(records), file=sys.stderr)
    else:
        print(text)
    if given.json:
        given.json.write_text(json.dumps([asdict(record) for record in records], indent=1))


def run(kind: str) -> Record:
    """Return what comes of one type, run in a forked process."""
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(kind, theirs))
    process.start()
    theirs.close()
    try:
        record: Record = ours.recv() if ours.poll(LIMIT) else Record(kind, error=f"no end in {LIMIT} seconds")
    except EOFError:
        record = Record(kind, error="the process died")
    process.kill()
    process.join()
    record.seconds = round(time.perf_counter() - started, 2)
    return record


def _work(kind: str, answer: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE / 4)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    answer.send(check(build(kind)))


def _give_up(*_: Any) -> None:
    raise TimeoutError(f"not done in {PATIENCE} seconds")


def progress(record: Record) -> str:
    """Say in a line what came of a type."""
    if not record.ran:
        return f"{record.type}: {'built' if record.built else 'not built'}, {record.error}"
    state = "covered" if record.covered else reasons(record.failures)
    return f"{record.type}: {record.called} of {record.layers} layers, {state} ({record.seconds:.1f} s)"


def reasons(failures: Iterable[Failure]) -> str:
    """Say what failed, each reason with the classes it met and how many layers of each."""
    counts = Counter((f.reason, f.module) for f in failures)
    return ", ".join(f"{reason}: {count} {module}" for (reason, module), count in counts.items())


def table(records: list[Record]) -> str:
    """Return the Markdown table, a row a type."""
    rows = ["| type | layers | kinds | layouts | failures |", "| --- | --- | --- | --- | --- |"]
    for r in records:
        kinds, layouts = (", ".join(f"{n} {name}" for name, n in c.items()) for c in (r.kinds, r.layouts))
        first = f" (such as {r.failures[0].layer}: {r.failures[0].detail})" if r.failures else ""
        why = reasons(r.failures) + first if r.ran else f"does not run: {r.error}"
        rows.append(f"| {r.type} | {r.layers} | {kinds} | {layouts} | {why.replace('|', '/')} |")
    return "\n".join(rows) + "\n"


def summary(records: list[Record]) -> str:
    """Return the counts: types that ran, types fully covered, failures by reason and class."""
    ran = [r for r in records if r.ran]
    covered = [r for r in ran if r.covered]
    lines = [
        f"{len(ran)} of {len(records)} types built and ran, {len(covered)} of them fully covered "
        f"({sum(not r.layers for r in covered)} without a norm layer); "
        f"{sum(r.called for r in ran)} layers called, {sum(len(r.unverified) for r in ran)} of them "
        "with rows the hooks could not choose.",
        "",
    ]
    found = [(f.reason, f.module, r.type) for r in ran for f in r.failures]
    for reason, count in Counter(reason for reason, _, _ in found).most_common():
        classes = Counter(module for why, module, _ in found if why == reason).most_common()
        kinds = len({kind for why, _, kind in found if why == reason})
        named = ", ".join(f"{module} {n}" for module, n in classes)
        lines.append(f"- {reason}: {count} layers of {kinds} types: {named}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
