"""Runs of the command line without the start-up: children of a process that has imported everything."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

# One line of JSON is a run: what to set, the arguments, the folder to run in. It answers with the child's
# number, and to "wait" with how it ended.
SERVER = """
import json, os, signal, sys
import torch, transformers, safetensors.torch
import normscope.engine.session
import normscope.analyses.merge
import normscope.statistics.position_tables_file
import normscope.analyses.distributed
from normscope.cli.start import main

def child(run):
    os.environ.update(run["set"])
    os.chdir(run["folder"])
    for number, name in ((1, run["out"]), (2, run["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if run["most"]:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (run["most"], run["most"]))
    sys.argv = ["normscope", *run["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        child(json.loads(line))
    print(pid, flush=True)
    sys.stdin.readline()
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Run:
    """One run that is under way; `out` and `err` are what it has written so far."""

    def __init__(self, server: "Forks", pid: int, out: Path, err: Path) -> None:
        self._server, self.pid, self._out, self._err = server, pid, out, err
        self.code: int | None = None

    def wait(self) -> int:
        """Return its exit code, or less than 0 the signal that killed it."""
        if self.code is None:
            self.code = int(self._server.ask("wait"))
        return self.code

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @property
    def out(self) -> str:
        """Its standard output."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Its standard error."""
        return self._err.read_text(encoding="utf-8") if self._err.exists() else ""


class Forks:
    """The process that runs are forked from, one after the other; a context manager."""

    def __init__(self) -> None:
        self._last: Run | None = None

    def __enter__(self) -> "Forks":
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._end_last()
        self._process.communicate(timeout=60)

    def _end_last(self) -> None:
        """Kill the last run where a test has failed before it ended."""
        if self._last is not None and self._last.code is None:
            self._last.send(signal.SIGKILL)
            self._last.wait()

    def ask(self, line: str) -> str:
        """Send one line and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def start(self, folder: Path, *arguments: str, most: int = 0, **environment: str) -> Run:
        """Start a run in this folder, whose files may have at most so many bytes (0: any)."""
        self._end_last()
        out, err = folder / "stdout", folder / "stderr"
        for path in (out, err):
            path.unlink(missing_ok=True)
        told = {"set": environment, "arguments": arguments, "folder": str(folder), "most": most}
        pid = int(self.ask(json.dumps({**told, "out": str(out), "err": str(err)})))
        self._last = Run(self, pid, out, err)
        return self._last

    def finish(self, folder: Path, *arguments: str, **options: Any) -> tuple[int, Run]:
        """Run to the end; return the exit code and the run."""
        run = self.start(folder, *arguments, **options)
        return run.wait(), run
