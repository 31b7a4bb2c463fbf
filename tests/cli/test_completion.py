"""Completion through the protocol of the shells: what is offered, how soon, and that nothing is ever said."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import normscope
from normscope.cli.app import app
from normscope.results.glossary.lookup import COMMANDS as EXPLAINED
from normscope.results.glossary.lookup import ENTRIES
from tests.support import reports
from tests.support.reports import MINILM

SHELLS = ("bash", "zsh", "fish")
ROOT = Path(__file__).parents[2]


def asked(shell: str, line: str) -> dict[str, str]:
    """What a shell puts into the environment for a line that is being typed, its cursor at the end."""
    said = {"_NORMSCOPE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "", "_TYPER_COMPLETE_ARGS": ""}
    if shell == "bash":
        words = line.split(" ")
        return {**said, "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return {**said, "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


def offered(shell: str, line: str) -> list[str]:
    """The values that are offered, without the words around them that the shell asks for."""
    result = CliRunner().invoke(app, [], env=asked(shell, line), prog_name="normscope")
    assert (result.exit_code, result.stderr) == (0, "")
    out = result.stdout.strip()
    if shell == "zsh":
        out = out.removeprefix("_files").removeprefix("_arguments '*: :((").removesuffix("))'")
        return [part.partition('"')[0] for part in out.removeprefix('"').split('\n"')] if out else []
    return [part.partition("\t")[0] for part in out.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a saved report, one with moments, a model's folder and a cache are."""
    place = tmp_path_factory.mktemp("here")
    reports.minilm().to_json(place / "report.json")
    model = nn.Sequential(nn.LayerNorm(4))
    with normscope.watch(model) as watcher:
        model(torch.randn(2, 3, 4))
    normscope.write_moments(watcher.report(moments=True), place / "part.safetensors")
    (place / "torn.json").write_text('{"layers": [{"name": 3}]}')
    (place / "odd.json").write_text('{"layers": 3}')
    (place / "list.json").write_text("[]")
    (place / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("models--org--tiny-bert/snapshots/abc", "models--gpt2/snapshots/abc"):
        (place / "cache" / name).mkdir(parents=True)
        (place / "cache" / name / "config.json").write_text("{}")
    (place / "cache" / "models--org--half" / "snapshots").mkdir(parents=True)
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    return place


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "cache"))


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_what_it_asks_for(shell: str) -> None:
    commands = ["inspect", "layers", "batches", "swap", "why", "compare", "merge", "explain"]
    assert set(offered(shell, "normscope ")) >= set(commands)
    assert offered(shell, "normscope inspect demo --pl") == ["--plot"]
    kinds = ["batchnorm", "batchnorm-fitted", "batchnorm-batch"]
    assert offered(shell, "normscope swap demo --kind bat") == kinds
    assert offered(shell, "normscope swap demo --kind sc") == ["scale-feature", "scale-sequence"]
    assert offered(shell, "normscope merge report.json --layer encoder.layer.5") == MINILM[-2:]
    assert offered(shell, "normscope inspect org") == ["org/tiny-bert"]
    assert offered(shell, "normscope explain agreement.f") == ["agreement.feature"]


def test_models() -> None:
    assert offered("bash", "normscope inspect ") == ["demo", "gpt2", "org/tiny-bert", "model"]
    assert offered("bash", "normscope layers ./") == ["./model"]
    assert offered("bash", "normscope why --cache-dir none d") == ["demo"]
    assert offered("bash", "normscope why --cache-dir none g") == []


def test_layers_of_saved_reports() -> None:
    assert offered("bash", "normscope merge --layer ") == []
    assert offered("bash", "normscope merge part.safetensors --layer ") == ["0"]
    both = offered("bash", "normscope merge part.safetensors report.json --exclude x --layer ")
    assert both == ["0", *MINILM]
    assert offered("zsh", 'normscope merge "report.json" --layer emb') == MINILM[:1]
    before = "normscope merge --layer emb report.json"
    line = {**asked("bash", before), "COMP_CWORD": "3"}
    assert CliRunner().invoke(app, [], env=line, prog_name="normscope").stdout.split() == MINILM[:1]


def test_names_and_values() -> None:
    assert offered("bash", "normscope compare a b --fail-above bn") == [
        "bn_drift.mean=",
        "bn_drift.variance=",
    ]
    assert set(offered("bash", "normscope explain ")) == {*ENTRIES, *EXPLAINED}
    assert offered("bash", "normscope explain insp") == ["inspect"]
    assert offered("bash", "normscope inspect demo --help") == ["--help-all", "--help"]
    assert offered("bash", "normscope explain --schema re") == ["report"]
    assert offered("bash", "normscope inspect demo --dtype f") == ["float32", "float16"]
    assert offered("bash", "normscope inspect demo --format js") == ["json", "jsonl"]
    assert offered("bash", "normscope inspect demo --order ") == ["length", "given"]


@pytest.mark.parametrize(
    "line",
    [
        "normscope nope --layer ",
        "normscope merge nope.json --layer ",
        "normscope merge 'report.json --layer ",
        "normscope merge torn.json odd.json list.json torn.safetensors model . --layer ",
        "normscope merge \x1b.json ~nobody/a.json --layer ",
        "normscope inspect demo --top x --order len",
        "normscope inspect /dev/null/x/",
        "normscope inspect demo --format nope --layer ",
    ],
)
def test_what_is_wrong_on_the_line_is_not_said(line: str) -> None:
    for shell in SHELLS:
        offered(shell, line)


def test_completion_loads_no_torch_and_hides_its_own_failures(place: Path) -> None:
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'transformers', 'rich'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules), file=sys.stderr))\n"
        "from normscope.cli.start import main\nmain()\n"
    )
    line = asked("bash", "normscope merge part.safetensors report.json --layer emb")
    for environment, out in ((line, MINILM[0] + "\n"), ({**line, "COMP_CWORD": "x"}, "")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (out, "set()\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself_completes(place: Path) -> None:
    command = place / "normscope"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m normscope "$@"\n')
    command.chmod(0o755)
    script = CliRunner().invoke(app, [], env={"_NORMSCOPE_COMPLETE": "source_bash"}, prog_name="normscope")
    session = (
        f"{script.stdout}\nCOMP_WORDS=(normscope merge report.json --layer encoder.layer.0.o)\nCOMP_CWORD=4\n"
        '_normscope_completion normscope\necho "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", session],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("encoder.layer.0.output.LayerNorm\n", "")


COMMANDS = ("$(touch x)", "a;touch x", "`touch x`", "\\$(touch x)", "a'b;touch x;'", "a\n touch x", "*")


@pytest.fixture
def session(place: Path) -> dict[str, str]:
    """Put `normscope` on the path, and a report beside it whose layers are called like commands, but one."""
    command = place / "normscope"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m normscope "$@"\n')
    command.chmod(0o755)
    named = zip((*COMMANDS, "good.layer"), reports.minilm().layers.values(), strict=False)
    layers = {name: replace(layer, name=name) for name, layer in named}
    replace(reports.minilm(), layers=layers).to_json(place / "named.json")
    for shell in SHELLS:
        environment = {"_NORMSCOPE_COMPLETE": f"source_{shell}"}
        (place / shell).write_text(CliRunner().invoke(app, [], env=environment, prog_name="normscope").stdout)
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{place}:{os.environ['PATH']}", "TERM": "dumb"}


LINE = "normscope merge named.json --layer "


@pytest.mark.parametrize(
    "argv",
    [
        ["bash", "--norc", "-c", f'. ./bash; COMP_WORDS=({LINE}""); COMP_CWORD=4; '
         '_normscope_completion normscope; echo "${COMPREPLY[@]}"'],
        ["fish", "-N", "-c", f"source ./fish; complete -C '{LINE}'"],
    ],
    ids=["bash", "fish"],
)  # fmt: skip
def test_what_a_shell_would_run_is_not_offered(place: Path, session: dict[str, str], argv: list[str]) -> None:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]}")
    done = subprocess.run(argv, env=session, cwd=place, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("good.layer\n", "")
    assert not (place / "x").exists()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_itself_completes_and_runs_no_name(place: Path, session: dict[str, str]) -> None:
    """At a terminal of its own, which zsh asks for to complete anything."""
    script = (
        "zmodload zsh/zpty\nzpty z zsh -f -i\n"
        "zpty -w z 'autoload -U compinit; compinit -u -D; source ./zsh; PS1=; print re\"\"ady'\n"
        "zpty -r z seen '*ready*'\n"
        f"zpty -w -n z '{LINE}'$'\\t'\nzpty -r z seen '*good.layer*'\nprint -r -- $seen\n"
    )
    argv = ["zsh", "-f", "-c", script]
    done = subprocess.run(
        argv, env=session, cwd=place, capture_output=True, text=True, timeout=60, check=True
    )
    assert "good.layer" in done.stdout
    assert not (place / "x").exists()


def test_a_models_folder_that_a_shell_would_run_is_not_offered(place: Path) -> None:
    (place / "$(touch x)").mkdir()
    (place / "$(touch x)" / "config.json").write_text("{}")
    assert offered("bash", "normscope layers $") == []
    assert "model" in offered("bash", "normscope layers ")
