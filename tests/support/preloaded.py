"""Commands `normscope` and `python` without the start-up: children of a process that has imported everything.

A shell finds them first on its PATH. Each passes its arguments, folder, environment and open files to a
server over a socket; a child of the server runs, and answers with the exit code.
"""

import os
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
    answer = server.recv(1)
sys.exit(answer[0] if answer else 1)
"""

SERVER = """
import contextlib, json, os, runpy, signal, socket, sys, traceback
import torch, transformers, safetensors.torch
import normscope.engine.session
import normscope.analyses.compare, normscope.analyses.merge, normscope.analyses.swap, normscope.analyses.why
from normscope.cli.start import main

def run(arguments):
    if arguments[0] == "normscope":
        sys.argv = arguments
        return main()
    sys.argv = arguments[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
    runpy.run_path(sys.argv[0], run_name="__main__")

def child(connection):
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
def preloaded() -> Iterator[Path]:
    """Serve while the block runs; yield the folder of the two commands."""
    root = str(Path(__file__).parents[2])
    with TemporaryDirectory() as folder:
        commands, socket = Path(folder) / "bin", str(Path(folder) / "socket")
        commands.mkdir()
        for name in ("normscope", "python"):
            (commands / name).write_text(
                CLIENT.format(python=sys.executable, socket=socket), encoding="utf-8"
            )
            (commands / name).chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": root, "PYTHONUTF8": "1"}
        with subprocess.Popen(
            [sys.executable, "-c", SERVER, socket],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=root,
            env=environment,
        ) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield commands
            finally:
                server.terminate()
