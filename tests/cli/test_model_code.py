"""Code that comes with a model: what it prints is no data, and it does not end the command in its own way."""

import json
from pathlib import Path

import pytest

from normscope.analyses.inspect import inspect
from normscope.errors import ModelError, RunError
from normscope.models.loading import load
from normscope.models.location import Loading
from tests.support.hub import LINES, edit_config, save_bert
from tests.support.preloaded import finish

SHOUTS = """
import atexit, ctypes, os, sys
from transformers import BertConfig, BertForMaskedLM

def shout(where):
    print("print", where)
    sys.__stdout__.write(f"kept {where}\\n")
    os.system(f"echo shell {where}")
    ctypes.CDLL(None).puts(f"c {where}".encode())

shout("import")

class OwnConfig(BertConfig):
    model_type = "own"

class Own(BertForMaskedLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        shout("load")

    def forward(self, input_ids=None, attention_mask=None, **more):
        shout("run")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
"""


def save_own(folder: Path, code: str) -> Path:
    save_bert(folder)
    (folder / "own.py").write_text(code, encoding="utf-8")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.Own"}
    return edit_config(folder, model_type="own", architectures=["Own"], auto_map=classes)


def trusting(commands: Path, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command line, which trusts the code; return the exit code and both outputs."""
    code, run = finish(commands, folder, *arguments, "--trust-remote-code")
    return code, run.out, run.err


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (["inspect", *LINES], ("import", "load", "run")),
        (["layers"], ("import", "load")),
        pytest.param(["inspect", *LINES, "--dry-run"], ("import", "load", "run"), marks=pytest.mark.slow),
        pytest.param(["batches", *LINES], ("import", "load", "run"), marks=pytest.mark.slow),
        pytest.param(["why", *LINES], ("import", "load", "run"), marks=pytest.mark.slow),
        pytest.param(["swap", *LINES, "the cat", "a dog"], ("import", "load", "run"), marks=pytest.mark.slow),
    ],
    ids=["inspect", "layers", "dry-run", "batches", "why", "swap"],
)
def test_what_the_code_of_a_model_prints_is_no_data(
    tmp_path: Path, preloaded_commands: Path, command: list[str], where: tuple[str, ...]
) -> None:
    save_own(tmp_path / "own", SHOUTS)
    code, out, err = trusting(preloaded_commands, tmp_path, command[0], "own", *command[1:], "--json")
    assert code == 0, err
    assert json.loads(out)["schema"].startswith("normscope.")
    assert all(f"{way} {place}\n" in err for way in ("print", "kept", "shell", "c") for place in where)


@pytest.mark.parametrize(
    "where", ["import", *(pytest.param(where, marks=pytest.mark.slow) for where in ("load", "run"))]
)
def test_code_that_ends_python_is_an_error(tmp_path: Path, preloaded_commands: Path, where: str) -> None:
    code = SHOUTS.replace(
        '    print("print", where)', f"    if where == {where!r}:\n        sys.exit(0)\n    return"
    )
    save_own(tmp_path / "own", code)
    ended, out, err = trusting(preloaded_commands, tmp_path, "inspect", "own", *LINES, "--json")
    assert (ended, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "sys.exit(0)" in line or "SystemExit: 0" in line


def test_code_that_ends_python_does_not_end_a_program_that_uses_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    silent = SHOUTS.replace(
        '    print("print", where)', "    if where == os.environ['ENDS']:\n        sys.exit(0)\n    return"
    )
    folder, trusted = save_own(tmp_path / "own", silent), Loading(trust_remote_code=True)
    monkeypatch.setenv("ENDS", "load")
    with pytest.raises(ModelError, match="ended Python"):
        load(folder, trusted)
    monkeypatch.setenv("ENDS", "run")
    with pytest.raises(RunError, match="SystemExit: 0"):
        inspect(folder, LINES, loading=trusted)
