"""Commands `normscope` and `python` without the start-up: children of a process that has imported everything.

A shell finds them first on its PATH. Each passes its arguments, folder, environment and open files to a
server over a socket; a child of the server runs, and answers with its process id and then its exit code.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    arguments = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    run = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [run[:1]], [0, 1, 2])
    server.sendall(run[1:])
    server.shutdown(socket.SHUT_WR)
    answer = server.makefile("rb").read()[4:]
sys.exit(answer[0] if answer else 1)
"""

SERVER = """
import contextlib, importlib, json, os, pkgutil, runpy, signal, socket, sys, traceback
import torch, transformers, safetensors.torch
import transformers.models.bert.modeling_bert, transformers.models.gpt2.modeling_gpt2
import transformers.models.auto.modeling_auto, transformers.models.auto.tokenization_auto
import normscope.engine.session, normscope.statistics.position_tables_file
import normscope.analyses.compare, normscope.analyses.merge, normscope.analyses.swap, normscope.analyses.why
import normscope.analyses.distributed, normscope.cli.commands
from normscope.cli.start import main

for module in pkgutil.iter_modules(normscope.cli.commands.__path__, "normscope.cli.commands."):
    importlib.import_module(module.name)

def run(arguments):
    if arguments[0] == "normscope":
        sys.argv = arguments
        return main()
    if arguments[1] == "-c":
        return exec(arguments[2], {"__name__": "__main__"})
    sys.argv = arguments[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")

def child(connection):
    connection.send(os.getpid().to_bytes(4, "big"))
    data, files, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while part := connection.recv(1 << 16):
        data += part
    arguments, folder, environment = json.loads(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    code = 1
    try:
        run(arguments)
        code = 0
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    connection.send(bytes([code]))
    os._exit(code)

def reap(*_):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass

with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    signal.signal(signal.SIGCHLD, reap)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child(connection)
        connection.close()
"""


@contextmanager
def preloaded(first: str = "", **settings: str) -> Iterator[Path]:
    """Serve while the block runs; yield the folder of the two commands.

    The server runs `first`, a line of Python, with these environment variables.
    """
    root = str(Path(__file__).parents[2])
    with TemporaryDirectory() as folder:
        commands, socket = Path(folder) / "bin", str(Path(folder) / "socket")
        commands.mkdir()
        for name in ("normscope", "python"):
            (commands / name).write_text(
                CLIENT.format(python=sys.executable, socket=socket), encoding="utf-8"
            )
            (commands / name).chmod(0o755)
        environment = {**os.environ, "HF_HOME": folder, "PYTHONPATH": root, "PYTHONUTF8": "1", **settings}
        with subprocess.Popen(
            [sys.executable, "-c", f"{first}\n{SERVER}", socket],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=root,
            env=environment,
            start_new_session=True,
        ) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield commands
            finally:
                os.killpg(server.pid, signal.SIGKILL)  # With the runs that a failed test has left.


class Run:
    """A run of `normscope` under way in a folder; `pid` is its process."""

    def __init__(self, commands: Path, folder: Path, *arguments: str, **environment: str) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(str(commands.parent / "socket"))
        request = json.dumps([["normscope", *arguments], str(folder), {**os.environ, **environment}]).encode()
        with Path(os.devnull).open() as nothing, self._out.open("w") as out, self._err.open("w") as err:
            socket.send_fds(self._server, [request[:1]], [file.fileno() for file in (nothing, out, err)])
        self._server.sendall(request[1:])
        self._server.shutdown(socket.SHUT_WR)
        self.pid = int.from_bytes(self._server.recv(4), "big")

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return its exit code; that of a killed process, which answers nothing, is -SIGKILL."""
        with self._server:
            answer = self._server.recv(1)
        return answer[0] if answer else -signal.SIGKILL

    @property
    def out(self) -> str:
        """Its standard output."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Its standard error."""
        return self._err.read_text(encoding="utf-8")


def finish(commands: Path, folder: Path, *arguments: str) -> tuple[int, Run]:
    """Run to the end; return the exit code and the run."""
    run = Run(commands, folder, *arguments)
    return run.wait(), run
