"""Every command of README.md and of the guides is run, and what they show is what comes out."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers

import normscope
from normscope.norms.detection import find
from tests.support import models, reports
from tests.support.command import ended
from tests.support.digits import Digits

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = ROOT / "examples" / "guides"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *GUIDES.glob("*.md"))}
BLOCK = re.compile(r"(?:<!-- (not run|ci): ([^\n]+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
MARKED = {value: text.strip() for mark, value, _, text in BLOCK.findall(README) if mark == "ci"}
ROW = r"^\| [^|\n]+ \| `((?:normscope|python) [^`\n]+)` \|"

TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
CLIP = "normscope inspect openai/clip-vit-base-patch32"
RESUMED = "normscope inspect demo -f corpus.txt --checkpoint run.ckpt --resume --json -o report.json"
REVISIONS = 'normscope inspect org/tiny "the cat sat" "it rained on the plain"'
ON_THE_HUB = "needs revisions on the Hub"
NOT_RUN = {
    f"python3 -m venv .venv && .venv/bin/{TORCH}": "network",
    "normscope inspect google/vit-base-patch16-224 --image a.png --image b.jpg": "network",
    "normscope inspect openai/whisper-tiny --audio speech.wav": "network",
    'normscope layers gpt2 --format mappings --layer "*.[01].*"': "network",
    f'{CLIP} "a cat" "a dog" --image cat.png --image dog.png': "network",
    "torchrun --nproc-per-node 2 -m normscope inspect demo -f corpus.txt --json -o report.json": "torchrun",
    f"{REVISIONS} --revision step1,step2,step3": ON_THE_HUB,
    f"{REVISIONS} --revision step1,step2,step3 --json -o trajectory.json": ON_THE_HUB,
    "normscope report trajectory.json -o revisions.html": ON_THE_HUB,
    f"{REVISIONS} --revision step1,step2 --format csv -q | sed -n 1,5p": ON_THE_HUB,
    RESUMED: "interrupted by hand",
    f"{RESUMED} --limit 100": "interrupted by hand",
}
"""Commands that are not run here, and why; tests of signals, ranks and revisions run such."""
DIGITS = "python examples/digits_cnn.py"
REDUCED = {
    DIGITS: " --quick",
    "python examples/freeze_layernorm.py": " --quick",
    "normscope why": " --layer '*.5.*'",
}
"""Beginnings of commands that take long, and the option of their reduced form."""
LONG, SHORT = range(350, 400), range(20, 80)
"""Characters of the texts that the commands run on: some are cut, and most take no time."""
ELSEWHERE = "normscope inspect digits-cnn --image digits/*.png"  # of README.md: images-and-sound.md trains it


class Command(NamedTuple):
    """A command of a page, the output that the page shows, and why it is not run."""

    line: str
    shown: str = ""
    not_run: str = ""


def blocks(page: str, language: str) -> list[str]:
    return [text for _, _, kind, text in BLOCK.findall(page) if kind == language]


def commands(page: str) -> Iterator[Command]:
    """Yield the commands of a page in its order: of shell blocks, of transcripts, of tables."""
    for match in re.finditer(
        BLOCK.pattern + r"|^\| .+? \| `((?:normscope|python) .+?)` \|", page, re.M | re.S
    ):
        mark, value, kind, text, of_table = match.groups()
        reason = value if mark == "not run" else ""
        if of_table:
            yield Command(of_table)
        elif kind == "sh" and mark != "ci":
            yield from (Command(line, "", reason) for line in text.splitlines() if line)
        elif kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                line, _, shown = part.partition("\n")
                yield Command(line, shown, reason)


def shell(line: str, folder: Path, scripts: Path = SCRIPTS) -> str:
    """Run a line in bash, with the commands in `scripts`; it must succeed. Return what it prints."""
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONUTF8": "1"}
    line = f"set -o pipefail; {line}"
    done = subprocess.run(
        ["bash", "-c", line],
        check=False,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout + done.stderr


def reduced(line: str) -> str:
    """Add the options of the reduced form to a command that takes long."""
    return line + "".join(option for command, option in REDUCED.items() if line.startswith(command))


def run(line: str, folder: Path, scripts: Path) -> str:
    """Run a line: in this process, if it needs no shell and no input that is a terminal's or nothing."""
    line = reduced(line)
    if not line.startswith("normscope ") or re.search(r"[|<>;&]|/\*\.png|demo --json", line):
        return shell(line, folder, scripts)
    result = ended(shlex.split(line)[1:])
    assert result.exit_code == 0, f"{line}\n{result.stderr}"
    return result.output


def shorten(folder: Path) -> None:
    """Keep a few texts and images: the commands must run, and their numbers are not compared."""
    for path in sorted((folder / "digits").glob("*.png"))[8:]:
        path.unlink()
    corpus = folder / "corpus.txt"
    lines = corpus.read_text(encoding="utf-8").splitlines() if corpus.exists() else []
    if len(lines) > 100:
        long, short = ([line for line in lines if len(line) in lengths] for lengths in (LONG, SHORT))
        corpus.write_text("\n".join(long[:2] + short[:: len(short) // 7]), encoding="utf-8")


GPT2 = [*(f"transformer.h.{i}.ln_{n}" for i in range(4) for n in (1, 2)), "transformer.ln_f"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, in which corpus.txt and some reports have been made."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "corpus.txt").write_text("\n".join(models.prose(200)), encoding="utf-8")
    shorten(tmp_path)
    for name in ("inspect.json", "before.json", "after.json"):
        reports.minilm().to_json(tmp_path / name)
    reports.write_windows(tmp_path / "norms.jsonl", GPT2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]{3,}", text))


def lines_to_run(name: str) -> Iterator[Command]:
    """Yield the commands of a page that are run here."""
    for command in commands(PAGES[name]):
        if not command.not_run and (name, command.line) != ("README.md", ELSEWHERE):
            yield command


@pytest.mark.skipif(shutil.which("jq") is None, reason="some commands use jq")
@pytest.mark.parametrize("name", [name for name in PAGES if any(lines_to_run(name))])
def test_commands_run_and_print_what_is_shown(
    name: str, folder: Path, preloaded_commands: Path, request: pytest.FixtureRequest
) -> None:
    """Every layer, column and line of a legend; the numbers depend on the Python that the texts are from."""
    for line, shown, _ in lines_to_run(name):
        if line == DIGITS:
            made: Digits = request.getfixturevalue("digits")
            shutil.copytree(made.folder, folder, dirs_exist_ok=True)
            printed = made.printed
        else:
            printed = run(line, folder, preloaded_commands)
        assert words(shown) - {"minutes"} <= words(printed), line  # fewer texts take seconds
        shorten(folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="some commands use jq")
@pytest.mark.parametrize("name", [name for name in PAGES if any(lines_to_run(name))])
def test_commands_run_in_processes_of_their_own(name: str, folder: Path) -> None:
    for line, _, _ in lines_to_run(name):
        shell(reduced(line), folder)
        shorten(folder)


def test_what_is_not_run_is_listed() -> None:
    pages = [commands(page) for page in PAGES.values()]
    assert {line: reason for page in pages for line, _, reason in page if reason} == NOT_RUN


def test_there_are_exactly_two_commands_to_set_up_and_run() -> None:
    assert MARKED.keys() == {"main", "test"}
    assert "pip install '.[demo]' && normscope inspect demo " in MARKED["main"]
    assert MARKED["test"].endswith("pip install -e '.[test]' && pytest -n auto")


def test_the_main_command_runs(folder: Path) -> None:
    assert "13 normalization layers, all layernorm" in run(MARKED["main"].split(" && ")[-1], folder, SCRIPTS)


def test_the_corpus_has_each_sentence_once(tmp_path: Path) -> None:
    lines = shell(f"{shlex.quote(sys.executable)} {ROOT}/examples/corpus.py", tmp_path).splitlines()
    assert len(set(lines)) == len(lines) > 2000
    assert all(20 < len(line) < 410 for line in lines)


def python_names() -> dict[str, Any]:
    """What the Python of the guides takes as given: a model, its inputs, a norm of the reader's own."""
    tokenizer, batch = models.demo()[1], {"input_ids": torch.arange(10).view(2, 5)}
    texts = ["a text", "another, longer one"]
    inputs = {"loader": [batch], "batch": batch, "texts": texts, "tokenizer": tokenizer}
    sizes = {"vocab_size": tokenizer.vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    small: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    return {**inputs, "model": small.eval(), "MyNorm": type("MyNorm", (torch.nn.Identity,), {})}


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "```python" in page])
def test_python_runs(name: str, folder: Path) -> None:
    names = python_names()
    for block in blocks(PAGES[name], "python"):
        exec(block, names)
    if name == "README.md":
        assert (names["same"].model.id, names["report"].run.tokens) == ("demo", 10)
    if name == "training.md":
        assert sorted(names["reports"]) == [0, 10, 20]
        assert len(names["moved"].layers) == 5
        assert normscope.track("norms.jsonl").steps.tolist() == [1, 4, 8, 12]
        assert len(find(names["MyNorm"]())) == 1  # recognised after `register`
    if name == "swap-and-fold.md":
        assert len(names["fold"].layers) >= 4


def test_links_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "examples" / "README.md", *GUIDES.glob("*.md")):
        for target, anchor in re.findall(r"\]\(([\w./-]*)(#[\w-]+)?\)", path.read_text(encoding="utf-8")):
            linked = path.parent / target if target else path
            assert linked.exists(), f"{path.name}: {target}"
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M) if anchor else []
            assert not anchor or anchor[1:] in {
                re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles
            }


def test_the_readme_is_short_and_installs_what_is_there() -> None:
    assert README.count("\n") <= 200
    for page in (*PAGES.values(), (ROOT / "examples" / "README.md").read_text(encoding="utf-8")):
        assert "normscope[" not in page, "the package is not published yet"


def test_the_picture_is_of_what_the_readme_shows() -> None:
    """The picture, which `python examples/picture.py` draws, has the words of the screen below it."""
    picture = (ROOT / "examples" / "first-screen.svg").read_text(encoding="utf-8")
    assert "url(http" not in picture
    assert "href" not in picture
    screen = next(shown for line, shown, _ in commands(README) if "--limit 400" in line)
    assert words(screen) <= words(re.sub(r"<[^>]+>", " ", picture).replace("&#160;", " "))
