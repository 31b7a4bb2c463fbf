"""Texts from arguments, files and standard input arrive unchanged, or with a clear error."""

import csv
import gzip
import io
import itertools
import json
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normscope.data.sample_sentences import SENTENCES
from normscope.data.text_files import read_texts
from normscope.data.text_lines import LONGEST_LINE
from normscope.errors import TextError, UsageError

Pipe = Callable[[BinaryIO], None]
LINES = ["plain", "", "  spaced  ", "form\ffeed", "sep\u2028arator", "lone\rreturn", "我爱中国。", "last"]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Makes a stream the standard input."""
    return lambda stream: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return path


def read(folder: Path, name: str, content: str | bytes, field: str | None = None) -> list[str]:
    return list(read_texts(files=[write(folder, name, content)], field=field))


def message(folder: Path, name: str, content: str | bytes, field: str | None = None) -> str:
    """The error of reading such a file: one line, safe to show."""
    with pytest.raises(TextError) as caught:
        read(folder, name, content, field)
    text = str(caught.value)
    assert text.isprintable()
    return text


def table(rows: list[list[str]], delimiter: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue()


class Endless(io.RawIOBase):
    """A stream that never ends and counts how often it was read."""

    reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        line = b"again\n"
        buffer[: len(line)] = line
        self.reads += 1
        return len(line)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a", "a.gz", "a.log", "A.TXT.GZ"])
@pytest.mark.parametrize("closed", [True, False])
def test_lines_end_at_newlines_alone(tmp_path: Path, name: str, end: str, closed: bool) -> None:
    assert read(tmp_path, name, end.join(LINES) + end * closed) == LINES


def test_a_lone_return_before_the_end_stays(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "one\r\ntwo\r") == ["one", "two\r"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.JSONL"])
def test_json_lines_hold_strings_or_objects(tmp_path: Path, name: str) -> None:
    values = [
        "a string",
        {"text": "in\u2028side", "n": 1},
        {"label": 3, "body": "only string"},
        "new\nline",
        "\U0001f600",
    ]
    content = "\n".join(json.dumps(value) for value in values)
    expected = ["a string", "in\u2028side", "only string", "new\nline", "\U0001f600"]
    assert read(tmp_path, name, content) == expected


@pytest.mark.parametrize("name", ["a.json", "a.JSON.gz"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_holds_an_array_of_texts(tmp_path: Path, name: str, indent: int | None) -> None:
    values = ["a string", {"text": "in\u2028side", "n": 10**5000}, {"text": None}, None, "new\nline"]
    sys.set_int_max_str_digits(0)
    expected = ["a string", "in\u2028side", "", "", "new\nline"]
    try:
        content = json.dumps(values, indent=indent)
    finally:
        sys.set_int_max_str_digits(4300)
    assert read(tmp_path, name, "\n" + content) == expected
    assert read(tmp_path, name, '[{"a": "x", "b": "y"}]', field="b") == ["y"]
    assert read(tmp_path, name, '{"text": "a"}\n\n"b"\n') == ["a", "", "b"], "lines of JSON, as many are"
    assert read(tmp_path, name, "") == []


def test_a_null_is_a_blank_text_as_in_datasets(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", 'null\n{"text": null}\n"a"') == ["", "", "a"]


def test_what_begins_with_a_bracket_may_be_a_text(tmp_path: Path) -> None:
    lines = ["[1] a reference", "{sic}", "[", '{"a": 1}']
    assert read(tmp_path, "a.log", "\n".join(lines)) == lines
    assert read(tmp_path, "a.txt", "\n".join(lines[::-1])) == lines[::-1]


def test_devices_and_nameless_files_are_refused() -> None:
    for path in ("/dev/zero", "/dev/tty"):
        if Path(path).exists():
            with pytest.raises(TextError, match=f"'{path}' is a device; expected"):
                read_texts(files=[path])
    with pytest.raises(TextError, match="name is empty; expected"):
        read_texts(files=[""])


def test_the_field_picks_the_member(tmp_path: Path) -> None:
    content = '{"text": "no", "body": "yes"}\n\n{"body": "", "text": 1}'
    assert read(tmp_path, "a.jsonl", content, field="body") == ["yes", "", ""]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ","), ("a.TSV", "\t")]
)
@pytest.mark.parametrize("field", [None, "other"])
def test_tables_keep_every_cell(tmp_path: Path, name: str, delimiter: str, field: str | None) -> None:
    cells = [
        "simple",
        'with "quotes"',
        "a, comma\tand tab",
        "two\nlines",
        "two\r\nlines",
        "page\u2028s",
        "",
        "终",
    ]
    rows = [["id", "text", "other"], *([str(i), cell, cell[::-1]] for i, cell in enumerate(cells))]
    expected = cells if field is None else [cell[::-1] for cell in cells]
    assert read(tmp_path, name, table(rows, delimiter), field) == expected


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=2
        )
    )
)
def test_any_table_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("tables")
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text", "more"], *rows])
    assert read(folder, "a.csv", stream.getvalue()) == [row[0] for row in rows]


def test_the_only_column_needs_no_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "review\ngood\n\nbad\n") == ["good", "", "bad"]


def test_rows_may_lack_cells_after_the_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "text,note\nfirst,x\nsecond\nthird,y,,\n") == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "é\nb", ["é", "b"]),
        ("a.jsonl", '"é"\n"b"', ["é", "b"]),
        ("a.csv", '"text",n\né,1', ["é"]),
        ("a.txt.gz", "é\nb", ["é", "b"]),
    ],
)
def test_a_byte_order_mark_is_dropped(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    assert read(tmp_path, name, b"\xef\xbb\xbf" + content.encode()) == expected


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv.gz", "a.txt.gz"])
def test_an_empty_file_has_no_texts(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, b"") == []


def test_concatenated_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert list(read_texts(files=[path])) == ["one", "two"]


def test_arguments_come_first_and_stay_whole(tmp_path: Path, pipe: Pipe) -> None:
    path = write(tmp_path, "a.txt", "from a file\n")
    pipe(io.BytesIO("piped\r\nagain".encode("utf-8-sig")))
    texts = read_texts(["two\nlines", "-", ""], [path, str(path)])
    assert list(texts) == ["two\nlines", "piped", "again", "", "from a file", "from a file"]


def test_standard_input_may_be_a_file(tmp_path: Path, pipe: Pipe) -> None:
    path = write(tmp_path, "a.txt", "last\n")
    pipe(io.BytesIO(b"piped\n"))
    assert list(read_texts(["first"], ["-", path])) == ["first", "piped", "last"]


@pytest.mark.parametrize(("arguments", "files"), [(["-", "-"], []), (["-"], ["-"]), ([], ["-", "-"])])
def test_standard_input_is_read_once(arguments: list[str], files: list[str]) -> None:
    with pytest.raises(UsageError, match="standard input"):
        read_texts(arguments, files)


def test_the_real_standard_input_is_the_default() -> None:
    program = "from normscope.data.text_files import read_texts; print(ascii(list(read_texts(['-']))))"
    piped = "één\u2028\ntwo"
    done = subprocess.run(
        [sys.executable, "-c", program], input=piped.encode(), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == ascii(piped.split("\n"))


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TextError, match="standard input is closed"):
        read_texts(["-"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"fine\nbad \xff\n", ["line 2", "0xff", "UTF-8"]),
        ("a.txt", b"fine\n\nPK\x00\x01", ["line 3", "NUL"]),
        ("a.txt", "utf-16".encode("utf-16"), ["line 1", "NUL"]),
        ("a.txt.gz", b"fine\nbad \xc3\n", ["line 2", "0xc3"]),
        ("a.csv", b"text\nok\n\xe9\n", ["line 3", "0xe9"]),
        ("a.jsonl", b'"ok"\n"\\ud800"\n', ["line 2", "UTF-16", "character 1"]),
        ("a.jsonl", '"ok"\n{"text": oops}', ["line 2", "not JSON"]),
        ("a.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
        ("a.jsonl", "9" * 10_000, ["line 1"]),
        ("a.jsonl", '"ok"\n\n{"text": 5}', ["line 3", "int", "expected a string"]),
        ("a.json", '["text", 5]', ["element 2", "int", "expected a string"]),
        ("a.json", '[\n"text",', ["line 2", "not JSON"]),
        ("a.json", '{\n"text": "a"\n}', ["line 1", "not JSON"]),
        ("a.data", '{"text": "a"}\n{"text": "b"}', ["line 1", "begins as JSON does"]),
        ("a", '[\n"a"]', ["line 1", "begins as JSON does"]),
        ("a.gz", '<?xml version="1.0"?>', ["line 1", "begins as XML does"]),
        ("a.parquet", b"PAR1\0\x15", ["line 1", "parquet", "--dataset"]),
        ("a.jsonl", '["text"]', ["line 1", "list"]),
        ("a.jsonl", '{"a": "x", "b\\u001b": "y"}', ["line 1", "'text'", "'a'", "'b\\x1b'"]),
        ("a.jsonl", "{}", ["line 1", "'text'"]),
        ("a.csv", "id,body\n1,x\n", ["line 1", "'text'", "'id'", "'body'"]),
        ("a.csv", 'id,text\n1,"a\nb"\n2\n', ["line 4", "1 cell where the header has 2"]),
        ("a.csv", "id,text\n1,one, two\n", ["line 2", "3 cells where the header has 2"]),
        ("a.csv", 'text\nfine\n"never\nclosed\n', ["line 3", "unexpected end of data"]),
        ("a.csv", 'text\n"quoted" then not\n', ["line 2"]),
        ("a.tsv", "text\ta\none\rtwo\tb\n", ["line 2"]),
    ],
)
def test_errors_name_the_file_and_the_line(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    text = message(tmp_path, name, content)
    for word in [repr(str(tmp_path / name)), *words]:
        assert word in text


@pytest.mark.parametrize(("name", "content"), [("a.csv", "text\nx\n"), ("a.jsonl", '{"text": "x"}')])
def test_a_named_field_must_be_there(tmp_path: Path, name: str, content: str) -> None:
    text = message(tmp_path, name, content, field="body")
    assert "'body'" in text
    assert "['text']" in text


def test_a_field_needs_a_file_with_fields(tmp_path: Path) -> None:
    plain = write(tmp_path, "a.txt", "x\n")
    rows = write(tmp_path, "a.csv.gz", "b\ny\n")
    with pytest.raises(UsageError, match="field 'b'"):
        read_texts(["text"], [plain], field="b")
    assert list(read_texts(files=[plain, rows], field="b")) == ["x", "y"]


def test_errors_name_standard_input(pipe: Pipe) -> None:
    pipe(io.BytesIO(b"one\n\xff"))
    texts = read_texts(["-"])
    assert next(texts) == "one"
    with pytest.raises(TextError, match=r"^standard input, line 2: byte 0xff"):
        next(texts)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_damaged_gzip_is_an_error_after_the_good_lines(tmp_path: Path, damage: str) -> None:
    content = "".join(f"line {i} {i * 2654435761 % 2**32}\n" for i in range(50_000)).encode()
    data = gzip.compress(content)
    broken = {
        "cut": data[: len(data) // 2],
        "flipped": data[:-8] + bytes(4) + data[-4:],
        "not gzip": content,
    }[damage]
    path = tmp_path / "a.txt.gz"
    path.write_bytes(broken)
    texts = read_texts(files=[path])
    read_lines: list[str] = []
    with pytest.raises(TextError, match=r"a\.txt\.gz', line \d+: .*gzip") as caught:
        read_lines.extend(iter(lambda: next(texts), None))
    if damage != "not gzip":
        assert f"line {len(read_lines) + 1}:" in str(caught.value)
        assert len(read_lines) > 20_000


def test_what_cannot_be_a_file_is_said_before_anything_is_read(tmp_path: Path) -> None:
    good = write(tmp_path, "good.txt", "x\n")
    with pytest.raises(TextError, match=r"missing\\x1b\.txt.*No such file"):
        read_texts(files=[good, tmp_path / "missing\x1b.txt"])
    with pytest.raises(TextError, match="is a directory"):
        read_texts(files=[good, tmp_path])
    with pytest.raises(TextError, match=r"null (byte|character)"):
        read_texts(files=["a\0b"])
    with pytest.raises(TextError):
        read_texts(files=["x" * 5000])


def test_an_unreadable_file_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "secret.txt", "x\n")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root reads whatever the mode says
    with pytest.raises(TextError, match=r"secret\.txt': permission denied"):
        read_texts(files=[path])


def test_a_file_gone_since_then_is_an_error_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "x\n")
    texts = read_texts(["first"], [path])
    path.unlink()
    assert next(texts) == "first"
    with pytest.raises(TextError, match="No such file"):
        next(texts)
    assert operator.length_hint(texts) == 0


@pytest.mark.parametrize(("argument", "words"), [("a\0b", "NUL"), ("caf\udce9", "not UTF-8 at character 4")])
def test_arguments_must_be_text(argument: str, words: str) -> None:
    with pytest.raises(TextError, match=f"text 2 of the arguments.*{words}"):
        read_texts(["fine", argument])


def test_nothing_is_read_ahead_of_need(tmp_path: Path, pipe: Pipe) -> None:
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    texts = read_texts(files=[path])
    path.write_bytes(b"changed\n\xff")
    assert next(texts) == "changed"
    endless: Any = Endless()
    pipe(io.BufferedReader(endless, 16))
    source = read_texts(["-"])
    assert list(itertools.islice(source, 1000)) == ["again"] * 1000
    assert endless.reads < 1100


def test_a_named_pipe_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    texts = read_texts(["one"], files=[path])
    writer = threading.Thread(target=path.write_bytes, args=(b"two\nthree\n",))
    writer.start()
    assert operator.length_hint(texts) == 0
    assert list(texts) == ["one", "two", "three"]
    writer.join()


def test_a_huge_line_and_a_huge_cell_are_fine(tmp_path: Path) -> None:
    huge = "word " * 400_000
    assert read(tmp_path, "a.txt", huge) == [huge]
    assert read(tmp_path, "a.csv", f'text,n\n"{huge}",1\n') == [huge]
    assert read(tmp_path, "a.jsonl", json.dumps(huge)) == [huge]


def test_a_stream_without_line_ends_is_an_error(pipe: Pipe) -> None:
    pipe(io.BytesIO(b"x" * (LONGEST_LINE + 1)))
    texts = read_texts(["-"])
    with pytest.raises(TextError, match="standard input, line 1: no line end"):
        next(texts)


def test_a_hundred_thousand_blank_lines(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "\n" * 100_000) == [""] * 100_000


def test_the_hint_is_exact_for_arguments() -> None:
    texts = read_texts(["a", "b", "c"])
    assert operator.length_hint(texts) == 3
    next(texts)
    assert operator.length_hint(texts) == 2
    assert list(texts) == ["b", "c"]
    assert operator.length_hint(texts) == 0


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_the_hint_follows_the_bytes(tmp_path: Path, name: str) -> None:
    lines = [f'"text number {i:06d}"' for i in range(20_000)]
    content = "\n".join(["text", *lines] if name == "a.csv" else lines)
    paths = [write(tmp_path, name, content), write(tmp_path, "b" + name, content)]
    texts = read_texts(["one", "two"], paths)
    assert operator.length_hint(texts) == 0  # nothing is known of the files yet
    for taken in (2_002, 13_000, 9_000):
        for _ in itertools.islice(texts, taken):
            pass
    left = 40_002 - 24_002
    assert operator.length_hint(texts) == pytest.approx(left, rel=0.01)
    assert sum(1 for _ in texts) == left
    assert operator.length_hint(texts) == 0


def test_the_hint_follows_the_compressed_bytes(tmp_path: Path) -> None:
    content = "\n".join(f"{i} {i * 2654435761 % 2**32:x}" for i in range(200_000))
    texts = read_texts(files=[write(tmp_path, "a.txt.gz", content)])
    for _ in itertools.islice(texts, 100_000):
        pass
    assert operator.length_hint(texts) == pytest.approx(100_000, rel=0.2)


def test_the_hint_is_zero_where_a_pipe_may_bring_anything(tmp_path: Path, pipe: Pipe) -> None:
    path = write(tmp_path, "a.txt", "x\ny\n")
    pipe(io.BytesIO(b"b\n"))
    texts = read_texts(["a", "-"], [path])
    assert [operator.length_hint(texts) for _ in texts] == [0] * 4


def test_the_sample_sentences_are_many_and_of_every_length() -> None:
    chinese = [text for text in SENTENCES if not text.isascii()]
    words = [len(text.split()) for text in SENTENCES if text.isascii()]
    assert len(SENTENCES) == len(set(SENTENCES)) >= 72
    assert len(SENTENCES) * 0.3 < len(chinese) < len(SENTENCES) * 0.4
    assert chinese[:2] == ["我爱中国。", "今天天气真好。"]
    assert (min(map(len, chinese)), min(words)) == (4, 3)
    assert max(map(len, chinese)) <= 60
    assert 55 <= max(words) <= 60
    for least in range(0, 60, 10):
        assert any(least < count <= least + 10 for count in words)
    assert all(text == text.strip() and text.isprintable() for text in SENTENCES)
