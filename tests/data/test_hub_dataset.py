"""Local datasets of the library `datasets` as streams of texts, and their errors."""

import gzip
import json
import operator
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from normscope.cli.app import app
from normscope.errors import TextError, UsageError

datasets = pytest.importorskip("datasets")
from normscope.data.hub_dataset import DatasetTexts, read_dataset  # noqa: E402

TEXTS = ["one fish", "", "two fish", "red \x1b[31mfish", "blue fish"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows in every format, by the format's name."""
    folder = tmp_path_factory.mktemp("data")
    rows = datasets.Dataset.from_dict({"id": range(len(TEXTS)), "text": TEXTS})
    rows.to_parquet(folder / "a.parquet")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    (folder / "b.csv").write_text("id,body,n\n1,one,2\n2,two,3\n")
    rows.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(folder / "several")
    (folder / "files").mkdir()
    for split, part in (("train", TEXTS), ("test", TEXTS[:1])):
        lines = [json.dumps({"title": "t", "body": text}) + "\n" for text in part]
        (folder / "files" / f"{split}.jsonl").write_text("".join(lines))
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "saved"])
def test_every_format_gives_its_texts(places: dict[str, Path], name: str) -> None:
    assert list(read_dataset(str(places[name]))) == TEXTS


def test_a_split_and_a_field_are_chosen(places: dict[str, Path]) -> None:
    folder = str(places["files"])
    assert list(read_dataset(folder, split="train", field="body")) == TEXTS
    assert list(read_dataset(folder, split="test", field="title")) == ["t"]
    assert list(read_dataset(str(places["several"]), split="test")) == TEXTS[:1]
    assert list(read_dataset(str(places["b.csv"]))) == ["one", "two"]  # The only field of strings.


def test_names_in_capitals_tabs_and_rows_without_a_text(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL").write_text('{"text": "one"}\n{"text": null}\n{"text": "two"}\n')
    assert list(read_dataset(str(tmp_path / "A.JSONL"))) == ["one", "", "two"]
    (tmp_path / "c.tsv").write_text("id\tbody\n1\tone, two\n2\tthree\n")
    assert list(read_dataset(str(tmp_path / "c.tsv"))) == ["one, two", "three"]


def test_text_is_the_field_that_is_meant_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "b", "text": "t"}\n')
    assert list(read_dataset(str(tmp_path / "a.jsonl"))) == ["t"]


@pytest.mark.parametrize(
    ("name", "asked"), [("owner/name:some", ("owner/name", "some")), ("name", ("name", None))]
)
def test_a_configuration_is_named_after_a_colon(
    name: str, asked: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*given: Any, streaming: bool, token: str | None) -> Any:
        assert (given, streaming, token) == (asked, True, None)
        return {"train": Rows([])}

    monkeypatch.setattr(datasets, "load_dataset", opened)
    assert list(read_dataset(name)) == TEXTS


def test_what_is_left_is_told_where_it_is_known(places: dict[str, Path]) -> None:
    texts = read_dataset(str(places["saved"]))
    assert operator.length_hint(texts) == 5
    assert texts.begin()
    assert operator.length_hint(texts) == 5
    next(texts)
    assert operator.length_hint(texts) == 4
    assert operator.length_hint(read_dataset(str(places["a.jsonl"]))) == 0


def one_line(message: str) -> bool:
    return message.isprintable() and message.count("; ") >= 1


@pytest.mark.parametrize(
    ("name", "options", "kind", "said"),
    [
        ("files", {}, UsageError, "has the splits 'train', 'test'; expected one; name it with --split"),
        ("files", {"split": "dev"}, TextError, "no split 'dev'; expected one of 'train', 'test'; name one"),
        ("a.jsonl", {"split": "dev"}, TextError, "no split 'dev'; expected one of 'train'; name one"),
        ("files", {"split": "test"}, TextError, "row 1: no field 'text'; expected one of 'title', 'body'"),
        ("a.jsonl", {"field": "x"}, TextError, "row 1: no field 'x'; expected one of 'text'; name one"),
        ("a.parquet", {"field": "id"}, TextError, "row 1: 'id' is int; expected a string; name another"),
        ("nowhere/at-all", {}, TextError, "cannot read the dataset"),
        (
            "nowhere.parquet",
            {},
            TextError,
            r"cannot read the dataset 'nowhere\.parquet' \(there is no such file or folder",
        ),
        ("./nowhere", {}, TextError, "there is no such file or folder"),
        ("/nowhere/at-all", {}, TextError, "there is no such file or folder"),
        ("data/nowhere/at-all.jsonl.gz", {}, TextError, "there is no such file or folder"),
        ("nowhere/at-all.jsonl", {}, TextError, "cannot read the dataset .*on the Hub"),
        ("bad.parquet", {}, TextError, r"dataset 'bad\.parquet'"),
        ("x.exe", {}, TextError, "its name ends in none of .parquet"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    places: dict[str, Path],
    name: str,
    options: dict[str, Any],
    kind: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for broken in ("bad.parquet", "x.exe"):
        Path(broken).write_bytes(b"no parquet")
    with pytest.raises(kind, match=said) as caught:
        read_dataset(str(places.get(name, name)), **options).begin()
    assert one_line(str(caught.value))


class Rows:
    """Rows that record when they are closed."""

    info, split = None, "train"

    def __init__(self, told: list[bool]) -> None:
        self._told = told

    def __iter__(self) -> Iterator[dict[str, str]]:
        try:
            yield from ({"text": text} for text in TEXTS)
        finally:
            self._told.append(sys.is_finalizing())


def test_files_are_let_go_with_the_texts() -> None:
    told: list[bool] = []
    texts = DatasetTexts("rows", Rows(told), None)
    assert texts.begin()
    del texts
    assert told == [False]


def test_an_error_on_the_way_names_its_row() -> None:
    class Broken(Rows):
        def __iter__(self) -> Iterator[dict[str, str]]:
            yield {"text": "one"}
            raise ConnectionError("the line is gone\nand more")

    texts = DatasetTexts("rows", Broken([]), None)
    assert next(texts) == "one"
    said = r"^dataset 'rows', row 2: the line is gone; expected rows; check the dataset and the network$"
    with pytest.raises(TextError, match=said):
        next(texts)


ENDS = """
from tests.data.test_hub_dataset import DatasetTexts, Rows
class Said(list):
    def append(self, value):
        print("finalizing" if value else "in time")
texts = DatasetTexts("rows", Rows(Said()), None)
texts.begin()
raise SystemExit(3)
"""


def test_files_are_let_go_before_python_ends() -> None:
    """Otherwise threads of pyarrow live longer than Python, and abort the process."""
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], cwd=root, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (3, "in time\n")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[datasets\]'"):
        read_dataset("x")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["inspect", "demo", *words], prog_name="normscope")


def test_the_command_reads_them(places: dict[str, Path]) -> None:
    result = run("--dataset", str(places["files"]), "--split", "train", "--field", "body", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)["run"]
    assert (data["texts"], data["skipped_texts"]) == (4, 1)


def test_wrong_usage_is_found_before_anything_is_read(places: dict[str, Path]) -> None:
    for words in (["--split", "x", "a text"], ["--dataset", str(places["saved"]), "a text"]):
        result = run(*words)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_local_folder_leads_nowhere_else(tmp_path: Path, card: str) -> None:
    asked = []

    class Counted(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.jsonl"
    named = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {url}\n"
    (tmp_path / card).write_text(f"---\n{named}---\n" if card.endswith(".md") else named)
    (tmp_path / "a.jsonl").write_text('{"text": "here"}\n')
    try:
        with pytest.raises(TextError, match="its files are not here but at http"):
            list(read_dataset(str(tmp_path)))
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


def test_with_local_files_only_no_dataset_is_asked_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "here"}\n')
    assert list(read_dataset(str(tmp_path), local=True)) == ["here"]
    for command in ("inspect", "batches", "why", "swap"):
        result = CliRunner().invoke(app, [command, "demo", "--dataset", "owner/name", "--local-files-only"])
        assert result.exit_code == 1
        assert (
            "'owner/name' is not a file or folder here; expected one, as --local-files-only" in result.stderr
        )


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(TextError, match="has no rows; expected some"):
        read_dataset(str(tmp_path / "a.jsonl"))
