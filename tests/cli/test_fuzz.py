"""Whatever the files hold, a command ends by an exit code and one line: texts, reports, moments, models."""

import copy
import gzip
import json
import math
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from normscope.cli.completion import _layers_of
from normscope.data.text_files import read_texts
from normscope.errors import NormscopeError
from tests.support import reports
from tests.support.command import ended
from tests.support.hub import LINES, save_bert

# By default some cases of each kind; in the slow run 40 times as many.
TIMES = pytest.mark.parametrize("times", [1, pytest.param(40, marks=pytest.mark.slow)])

EDGES = (0, 1, -1, 2, 7, 8, 2**31, 2**63, -(2**63) - 1, 10**400, -0.0, 0.5, 1e-320, 1e308, math.nan, math.inf)
# What JSON can hold, lone halves of UTF-16 pairs included.
WORDS = st.text(st.characters(), max_size=6) | st.sampled_from(["", "\ud800", "\0", "[/red]", "a\nb"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.sampled_from(EDGES) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=6,
)
# Characters that file formats give a meaning to.
BYTES = st.lists(
    st.binary(max_size=8)
    | st.sampled_from([b"\n", b"\r", b'"', b",", b"\t", b"\xef\xbb\xbf", b"\0", b"a dog"])
).map(b"".join)


def fuzz(cases: int, *strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Call the function with so many examples, the same ones every time."""

    def run(check: Callable[..., None]) -> None:
        quiet: Any = settings(
            max_examples=cases,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        drawn: Any = given(*strategies)
        quiet(drawn(check))()

    return run


@st.composite
def mutated(draw: st.DrawFn, whole: Any) -> Any:
    """A copy of plain values with one to three of its members replaced, left out, or there twice."""
    found = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        _mutate(draw, found)
    return found


def _mutate(draw: st.DrawFn, part: Any) -> None:
    """Walk down to some member, and change it."""
    while isinstance(part, dict | list) and part:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = draw(st.sampled_from(keys))
        if isinstance(part[key], dict | list) and part[key] and draw(st.integers(0, 5)):
            part = part[key]
            continue
        way = draw(st.sampled_from(["replace", "replace", "delete", "double"]))
        if way == "replace":
            part[key] = draw(JUNK)
        elif way == "delete":
            del part[key]
        elif isinstance(part, list):
            part.insert(key, part[key])
        else:
            part[draw(WORDS)] = part[key]
        return


@st.composite
def flipped(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with some of them changed, a part left out, or cut short."""
    found = bytearray(content)
    # Half of the changes are at the start, where headers are.
    place = st.integers(0, min(len(content), 400) - 1) | st.integers(0, len(content) - 1)
    for at in draw(st.lists(place, max_size=4)):
        found[at] = draw(st.integers(0, 255))
    begin = draw(place)
    cut = draw(st.sampled_from([0, 0, 1, 8, len(content)]))
    return bytes(found[:begin] + found[begin + cut :])


def dumped(data: Any) -> str:
    return json.dumps(data)  # NaN and Infinity included, as careless writers leave them


# Texts


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz", "a.csv.gz"])
@TIMES
def test_any_bytes_as_texts(times: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / name

    @fuzz(25 * times, BYTES, st.booleans())
    def check(content: bytes, zipped: bool) -> None:
        path.write_bytes(gzip.compress(content) if zipped and name.endswith("gz") else content)
        read_all(path)


@TIMES
def test_any_json_lines_as_texts(times: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    @fuzz(25 * times, st.lists(JUNK | st.builds(lambda value: {"text": value}, JUNK), max_size=4))
    def check(values: list[Any]) -> None:
        path.write_text("\n".join(map(dumped, values)), encoding="utf-8")
        read_all(path)


def read_all(path: Path) -> None:
    """Only our own errors are let pass."""
    with suppress(NormscopeError):
        for text in read_texts([], [path]):
            text.encode()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv.gz"])
@TIMES
def test_any_bytes_through_a_model(times: int, name: str, tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / name

    @fuzz(4 * times, BYTES)
    def check(content: bytes) -> None:
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        ended(["inspect", tiny, "-f", path])


# Saved results


@pytest.fixture(scope="module")
def report() -> Any:
    """A report of two layers with all that a layer can have."""
    small = {"features": 3, "positions": 2}
    layers = [
        reports.layer(name, i, outliers=reports.standing_out(i), **small) for i, name in enumerate("ab")
    ]
    return reports.report(layers).to_dict()


@TIMES
def test_a_mutated_report(times: int, report: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(dumped(report))

    @fuzz(60 * times, mutated(report))
    def check(data: Any) -> None:
        bad.write_text(dumped(data))
        ended(["compare", good, bad, "--format", "markdown", "--fail-above", "bn_drift.mean=0.1"])
        ended(["compare", bad, good])
        ended(["compare", bad, bad, "--format", "csv"])
        ended(["merge", bad])
        _layers_of(str(bad))


@TIMES
def test_a_mutated_result_as_a_page(times: int, report: Any, tmp_path: Path) -> None:
    bad, page = tmp_path / "bad.json", tmp_path / "page.html"
    pytest.importorskip("altair")
    results = [
        report,
        reports.batch_report().to_dict(),
        reports.swap_report().to_dict(),
        reports.comparison().to_dict(),
    ]

    @fuzz(8 * times, st.one_of([mutated(result) for result in results]))
    def check(data: Any) -> None:
        bad.write_text(dumped(data))
        ended(["report", bad, "-o", page])
        ended(["report", bad, "--chart", "agreement"])


@TIMES
def test_a_damaged_report(times: int, report: Any, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(dumped(report))

    @fuzz(60 * times, flipped(good.read_bytes()))
    def check(content: bytes) -> None:
        bad.write_bytes(content)
        ended(["compare", good, bad])
        _layers_of(str(bad))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("fuzz") / "bert")


@pytest.fixture(scope="module")
def moments(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moments") / "good.safetensors"
    ended(["inspect", tiny, *LINES, "--words", "--moments", path])
    return path


def check_moments(good: Path, bad: Path) -> None:
    ended(["merge", bad])
    ended(["merge", good, bad, "--json"])
    ended(["compare", good, bad])
    _layers_of(str(bad))


@TIMES
def test_damaged_moments(times: int, moments: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"

    @fuzz(40 * times, flipped(moments.read_bytes()))
    def check(content: bytes) -> None:
        bad.write_bytes(content)
        check_moments(moments, bad)


@TIMES
def test_moments_with_a_mutated_header(times: int, moments: Path, tmp_path: Path) -> None:
    bad, content = tmp_path / "bad.safetensors", moments.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    del header["__metadata__"]["sha256"]  # which would tell of any other header
    facts = json.loads(header["__metadata__"]["facts"])

    @fuzz(40 * times, mutated(header), mutated(facts), st.sampled_from(["header", "facts", "both"]))
    def check(header_: Any, facts_: Any, which: str) -> None:
        new = header_ if which != "facts" else copy.deepcopy(header)
        if which != "header" and isinstance(new.get("__metadata__"), dict):
            new["__metadata__"]["facts"] = dumped(facts_)
        text = dumped(new).encode()
        bad.write_bytes(struct.pack("<Q", len(text)) + text + data)
        check_moments(moments, bad)


@TIMES
def test_moments_with_other_numbers(times: int, moments: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bad, tensors = tmp_path / "bad.safetensors", load_file(moments)
    metadata = header_of(moments)["__metadata__"]
    del metadata["sha256"]  # which would tell of any other number
    names = sorted(name for name in tensors if name != "report" and tensors[name].numel())

    numbers = st.sampled_from([0.0, -1.0, 7.0, 2.0**62, -(2.0**62), 1e308, math.nan, math.inf])

    @fuzz(15 * times, st.sampled_from(names), numbers, st.booleans())
    def check(name: str, number: float, all_of_it: bool) -> None:
        new = tensors[name].clone()
        assume(new.is_floating_point() or abs(number) <= 2.0**62)
        new.view(-1)[slice(None) if all_of_it else slice(1)] = number
        save_file({**tensors, name: new}, bad, metadata=metadata)
        check_moments(moments, bad)


def header_of(path: Path) -> Any:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


# Models


@TIMES
def test_a_mutated_configuration(times: int, tiny: Path, tmp_path: Path) -> None:
    folder = Path(copytree(tiny, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())

    @fuzz(30 * times, mutated(config))
    def check(data: Any) -> None:
        (folder / "config.json").write_text(dumped(data))
        ended(["layers", folder])
        ended(["inspect", folder, *LINES])


@TIMES
def test_a_mutated_tokenizer(times: int, tiny: Path, tmp_path: Path) -> None:
    folder = Path(copytree(tiny, tmp_path / "model"))
    known = json.loads((folder / "tokenizer.json").read_text())

    @fuzz(10 * times, mutated(known))
    def check(data: Any) -> None:
        (folder / "tokenizer.json").write_text(dumped(data))
        ended(["inspect", folder, *LINES])


@TIMES
def test_damaged_weights(times: int, tiny: Path, tmp_path: Path) -> None:
    folder = Path(copytree(tiny, tmp_path / "model"))
    path = folder / "model.safetensors"

    @fuzz(20 * times, flipped(path.read_bytes()))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        ended(["inspect", folder, *LINES])
