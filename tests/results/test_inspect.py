"""The report: frozen, strict JSON, the same after the trip, and files written whole or not at all."""

import dataclasses
import json
import math
import os
import stat
import subprocess
import sys
import threading
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.errors import ReportError
from normscope.results import atomic_write as files
from normscope.results import inspect as report_module
from normscope.results.atomic_write import write_whole
from normscope.results.common import Floats, Summary
from normscope.results.curve import InputOutputCurve
from normscope.results.inspect import AffineFit, FeatureStats, LayerReport, Report, Scale
from normscope.results.json_codec import from_plain, plain_fields, to_plain
from normscope.results.reading import read_report
from tests.support import reports

RESULTS = [c for c in vars(report_module).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and links as POSIX has them")


def differences(a: Any, b: Any, where: str = "report") -> list[str]:
    """Name the members in which two results are not the same to the last bit, types included."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} is not {type(b).__name__}"]
    if dataclasses.is_dataclass(a):
        a, b = vars(a), vars(b)
    elif isinstance(a, list | tuple):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if not isinstance(a, Mapping):
        return [] if identical(a, b) else [f"{where}: {a!r} is not {b!r}"]
    if list(a) != list(b):
        return [f"{where}: {list(a)} is not {list(b)}"]
    return [difference for key in a for difference in differences(a[key], b[key], f"{where}.{key}")]


def identical(a: Any, b: Any) -> bool:
    """Tell whether two numbers, arrays or strings are one; a NaN is any other NaN, 0.0 is not -0.0."""
    if not isinstance(a, float | np.ndarray):
        return bool(a == b)
    one, other = np.asarray(a), np.asarray(b)
    unknown = np.isnan(one)
    same = one.dtype == other.dtype and one.shape == other.shape and np.array_equal(unknown, np.isnan(other))
    return bool(same and one[~unknown].tobytes() == other[~unknown].tobytes())


def strict(text: str) -> Any:
    """Parse JSON and refuse the NaN and Infinity that Python would read."""

    def refuse(token: str) -> Any:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def results(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a result type, after its field types: also of members that a later version adds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        members = {field.name: results(hints[field.name]) for field in plain_fields(kind)}
        if kind is LayerReport:
            members["features"] = st.just(LENGTH)
        return st.builds(typing.cast(Any, kind), **members)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if a is type(None) else results(a) for a in arguments))
    if origin is tuple:
        return st.lists(results(arguments[0]), max_size=2).map(tuple)
    return _arrays(arguments) if origin is np.ndarray else _mappings(arguments[1])


LENGTH = 2  # of all arrays


def whole_numbers(low: int, high: int) -> st.SearchStrategy[Any]:
    numbers = st.lists(st.integers(low, high), min_size=LENGTH, max_size=LENGTH)
    return numbers.map(lambda v: np.array(v, dtype=np.int64))


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**80), 2**80),
    float: st.floats(allow_infinity=False, allow_nan=False) | st.just(math.nan),
    str: st.text(max_size=8),
    # It refuses impossible bins.
    InputOutputCurve: st.builds(
        InputOutputCurve,
        input_limit=st.floats(2**-5, 2**16),
        output_limit=st.floats(4, 2**8),
        beyond=st.integers(0, 2**40),
        input_bin=whole_numbers(0, 63),
        output_bin=whole_numbers(0, 63),
        count=whole_numbers(1, 2**40),
    ),
}


def _arrays(arguments: Any) -> st.SearchStrategy[Any]:
    dtype = typing.get_args(arguments[1])[0]
    member = st.integers(0, 2**40) if issubclass(dtype, np.integer) else SCALARS[float]
    return st.lists(member, min_size=LENGTH, max_size=LENGTH).map(lambda v: np.array(v, dtype=dtype))


def _mappings(kind: Any) -> st.SearchStrategy[Any]:
    if kind is not LayerReport:
        return st.dictionaries(st.text(max_size=5), results(kind), max_size=2)
    layers = st.lists(results(kind), max_size=2, unique_by=lambda layer: layer.name)
    return layers.map(lambda chosen: {layer.name: layer for layer in chosen})


# The result


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_results_are_frozen(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_one_is_no_plural() -> None:
    report = reports.minilm()
    one = dict([next(iter(report.layers.items()))])
    run = dataclasses.replace(report.run, texts=1, tokens=1)
    assert repr(dataclasses.replace(report, layers=one, run=run)).endswith(": 1 layer, 1 text, 1 token>")


def test_a_field_cannot_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        reports.minilm().normscope = "9"  # type: ignore[misc]
    assert len(RESULTS) > 10


def test_reports_are_equal_when_their_values_are() -> None:
    report, same = reports.mixed(), reports.mixed()
    assert math.isnan(report.layers["pooler.norm"].own_error)
    assert report == same
    assert same.layers["pooler.norm"].feature is None
    assert report.layers == same.layers
    name, layer = next(iter(same.layers.items()))
    assert layer.feature is not None
    layer.feature.mean[3] += 1e-9
    assert report != same
    assert report.layers[name] != layer
    assert report != report.to_dict()
    assert Scale(1.0, 2.0) != AffineFit(1.0)


def test_a_report_shows_itself_in_a_line() -> None:
    assert repr(reports.minilm()) == (
        "<Report of sentence-transformers/all-MiniLM-L6-v2: 13 layers, 64 texts, 1,536 tokens>"
    )


def test_members_are_the_documented_ones_in_order() -> None:
    data = reports.minilm().to_dict()
    assert (
        " ".join(data)
        == "schema normscope model run layers warnings outlier_features pooled provenance depth"
    )
    assert data["schema"] == "normscope.report/1"
    assert " ".join(data["model"]) == "id revision commit architecture dtype device parameters"
    assert " ".join(data["run"]) == (
        "texts tokens skipped_texts truncated_texts positions max_length "
        "special_tokens batch_size batches order padding_share seconds medium position_bins batch_tokens "
        "unknown_tokens repeated_texts selection left_out"
    )
    layer = data["layers"][0]
    assert " ".join(layer) == (
        "name index module kind features eps affine calls layout count nonfinite own_error "
        "token feature position sequence instance global own_output "
        "agreement affine_fit explained first_position stored_gap call calls_per_forward "
        "outliers mean_share mean_share_energy extremes curve"
    )
    assert " ".join(layer["outliers"]) == "llm_int8 massive affine_outliers sd_ratio"
    assert " ".join(data["outlier_features"][0]) == "feature width layers share"
    assert list(layer["token"]) == ["mean", "variance"]
    assert list(layer["token"]["mean"]) == ["count", "mean", "std", "min", "max"]
    members = ["count", "mean", "variance", "token_mean", "token_variance", "first", "token_variance_std"]
    members += ["token_variance_min", "token_variance_max", "far"]
    assert list(layer["position"]) == members
    assert layer["explained"]["position"].keys() == {"eta2", "epsilon2"}
    assert [layer["name"] for layer in data["layers"]] == reports.MINILM


# To JSON and back


@pytest.mark.parametrize(
    "build", [reports.minilm, reports.llama, reports.mixed], ids=lambda build: build.__name__
)
def test_a_report_is_the_same_after_the_trip(build: Callable[[], Report], tmp_path: Path) -> None:
    report = build()
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert path.read_bytes() == text.encode("utf-8")
    assert differences(read_report(path), report) == []
    assert differences(Report.from_dict(report.to_dict()), report) == []
    assert read_report(str(path)).to_json() == text


@settings(max_examples=40, deadline=None)
@given(results(Report))
def test_any_report_is_the_same_after_the_trip(report: Report) -> None:
    assert differences(Report.from_dict(strict(report.to_json())), report) == []


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 30))
def test_numbers_come_back_to_the_last_bit(number: float, halvings: int) -> None:
    values = np.array([number, -number, number / 2**halvings, 0.1 + number, -0.0])
    scale = Scale(number, math.nextafter(number, 0))
    feature = FeatureStats(5, values, np.abs(values))
    layer = reports.layer("a", features=5, positions=2, global_=scale, feature=feature)
    back = Report.from_dict(strict(reports.report([layer]).to_json())).layers["a"]
    assert differences(back.global_, scale) == []
    assert differences(back.feature, layer.feature) == []


def test_unknown_numbers_are_null_and_come_back_as_nan() -> None:
    layer = reports.layer("a", features=3, positions=2, eps=math.nan, own_error=math.inf)
    layer = dataclasses.replace(layer, global_=Scale(-math.inf, math.nan))
    assert layer.feature is not None
    layer.feature.variance[1] = math.nan
    text = reports.report([layer]).to_json()
    plain = strict(text)["layers"][0]
    assert (plain["eps"], plain["own_error"]) == (None, None)
    assert plain["global"] == {"mean": None, "variance": None}
    assert "global_" not in plain
    assert plain["feature"]["variance"][1] is None
    back = Report.from_dict(strict(text)).layers["a"]
    assert math.isnan(back.eps)
    assert math.isnan(back.own_error)
    assert back.global_ is not None
    assert math.isnan(back.global_.mean)
    assert back.feature is not None
    assert np.isnan(back.feature.variance).tolist() == [False, True, False]


def test_what_was_not_measured_stays_none() -> None:
    report = reports.report([reports.uncalled("spare")])
    plain = strict(report.to_json())["layers"][0]
    assert [plain[name] for name in ("layout", "token", "position", "global", "agreement")] == [None] * 5
    assert Report.from_dict(report.to_dict()).layers["spare"].position is None
    assert Report.from_dict(report.to_dict()).run.max_length == 256


def test_whole_numbers_of_other_writers_fit_float_fields() -> None:
    data = reports.minilm().to_dict()
    data["layers"][0]["eps"], data["run"]["seconds"] = 1, 2
    back = Report.from_dict(data)
    assert differences([back.layers[reports.MINILM[0]].eps, back.run.seconds], [1.0, 2.0]) == []
    assert type(back.run.seconds) is float


@pytest.mark.parametrize("mean", [[0, 1, -2], [0, 1.5, None]], ids=["whole", "mixed"])
def test_arrays_have_their_fields_type_whatever_the_numbers(mean: list[Any]) -> None:
    # JavaScript and jq write 0 for 0.0.
    data = reports.report([reports.layer("a", features=3, positions=2)]).to_dict()
    data["layers"][0]["feature"]["mean"] = mean
    feature = Report.from_dict(data).layers["a"].feature
    assert feature is not None
    assert feature.mean.dtype == np.float64


def test_counts_are_integers_even_when_there_are_none() -> None:
    report = reports.report([reports.layer("a", features=3, positions=0)])
    position = Report.from_dict(report.to_dict()).layers["a"].position
    assert position is not None
    assert position.count.dtype == np.int64


def test_members_that_a_later_version_added_are_ignored() -> None:
    data = reports.minilm().to_dict()
    extended = json.loads(json.dumps(data))
    for place in (extended, extended["run"], extended["layers"][3], extended["layers"][3]["token"]):
        place["added_later"] = {"what": ["ever", 1]}
    assert differences(Report.from_dict(extended), Report.from_dict(data)) == []


def test_text_is_one_line_unless_indented() -> None:
    report = reports.report([reports.layer("层归一化", features=2, positions=2)])
    assert report.to_json().count("\n") == 1
    assert report.to_json().endswith("}\n")
    assert "层归一化" in report.to_json()
    assert report.to_json(indent=2).startswith('{\n  "schema"')
    assert strict(report.to_json(indent=2)) == strict(report.to_json())


def test_hostile_names_come_back_as_they_were(tmp_path: Path) -> None:
    report = reports.hostile()
    report.to_json(tmp_path / "report.json")
    assert differences(read_report(tmp_path / "report.json"), report) == []


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\\\ud800", "\ud800\\udc00", '"\udc80"'])
def test_half_a_utf16_pair_does_not_break_writing(name: str, tmp_path: Path) -> None:
    report = reports.report([reports.layer(name, features=2, positions=2)], warnings=[name])
    text = report.to_json(tmp_path / "report.json")
    text.encode("utf-8")
    back = read_report(tmp_path / "report.json")
    assert list(back.layers) == [name]
    assert back.warnings == (name,)


# What is no report


def changed(place: str, value: Any = ...) -> Any:
    """Return a small report's dict with one member replaced, or removed."""
    data = json.loads(reports.report([reports.layer("a", features=3, positions=2)]).to_json())
    *way, last = place.split(".")
    part = data
    for step in way:
        part = part[int(step) if step.isdigit() else step]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return data


def refusal(read: Callable[[], Any]) -> str:
    """Return the message of the ReportError that reading raises; it must be one line."""
    with pytest.raises(ReportError) as caught:
        read()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "expected" in message
    return message


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("normscope", "report has no member 'normscope'"),
        ("warnings", "report has no member 'warnings'"),
        ("layers", "report.layers"),
        ("run.tokens", "report.run has no member 'tokens'"),
        ("model.id", "report.model has no member 'id'"),
        ("layers.0.global", "report.layers[0] has no member 'global'"),
        ("layers.0.position.count", "report.layers[0].position has no member 'count'"),
        ("layers.0.explained.position.eta2", "report.layers[0].explained.position has no member 'eta2'"),
    ],
)
def test_a_missing_member_is_named(place: str, words: str) -> None:
    assert words in refusal(lambda: Report.from_dict(changed(place)))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("normscope", 1, "report.normscope is int; expected str"),
        ("model", [], "report.model is list; expected dict"),
        ("model.parameters", True, "report.model.parameters is bool; expected int"),
        ("model.parameters", 1.5, "report.model.parameters is float; expected int"),
        ("model.revision", 3, "report.model.revision is int; expected str"),
        ("run.tokens", None, "report.run.tokens is NoneType; expected int"),
        ("run.tokens", "12", "report.run.tokens is str; expected int"),
        ("run.seconds", False, "report.run.seconds is bool; expected float"),
        ("run.max_length", "256", "report.run.max_length is str; expected int"),
        ("warnings", "none", "report.warnings is str; expected list"),
        ("warnings", ["a", 2], "report.warnings[1] is int; expected str"),
        ("layers", {}, "report.layers is dict; expected list"),
        ("layers", [None], "report.layers[0] is NoneType; expected dict"),
        ("layers.0.eps", "1e-5", "report.layers[0].eps is str; expected float"),
        ("layers.0.feature", 3, "report.layers[0].feature is int; expected dict"),
        ("layers.0.feature.mean", 0.5, "report.layers[0].feature.mean is float; expected list"),
        ("layers.0.feature.mean", [0.5, "x"], "report.layers[0].feature.mean is str; expected float"),
        ("layers.0.feature.mean", [0.5, True], "report.layers[0].feature.mean is bool; expected float"),
        ("layers.0.feature.mean", [[0.5]], "report.layers[0].feature.mean is list; expected float"),
        ("layers.0.agreement", [], "report.layers[0].agreement is list; expected dict"),
        ("layers.0.agreement.feature", "1", "report.layers[0].agreement.feature is str; expected float"),
    ],
)
def test_a_member_of_the_wrong_type_is_named(place: str, value: Any, words: str) -> None:
    assert words in refusal(lambda: Report.from_dict(changed(place, value)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run.seconds", 10**400),
        ("layers.0.feature.mean", [0.5, 10**400]),
        ("layers.0.position.count", [1, 2**63]),
    ],
    ids=["number", "array", "count"],
)
def test_a_number_too_large_is_named(place: str, value: Any) -> None:
    named = "report." + place.replace(".0.", "[0].")
    assert named in refusal(lambda: Report.from_dict(changed(place, value)))


def test_a_members_own_name_cannot_break_the_line() -> None:
    assert "agreement" in refusal(lambda: Report.from_dict(changed("layers.0.agreement.two\nlines", "x")))


@pytest.mark.parametrize("schema", ["normscope.report/2", "normscope.swap/1", None, 1, ["two\nlines"]])
def test_another_schema_is_refused(schema: Any) -> None:
    message = refusal(lambda: Report.from_dict(changed("schema", schema)))
    assert f"schema is {schema!r}" in message
    assert Report.SCHEMA in message


@pytest.mark.parametrize("data", [None, [], "text", 3, {}], ids=str)
def test_what_is_no_report_at_all_is_refused(data: Any) -> None:
    assert "not a normscope report" in refusal(lambda: Report.from_dict(data))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not JSON\nat all",
        b'{"schema": "normscope.report/1"',
        b"\x80\x02}q\x00.\xff\xfe",
        "{}".encode("utf-16"),
        b"[" * 200_000,
        b"9" * 5000,
    ],
    ids=["empty", "text", "cut", "binary", "utf-16", "deep", "digits"],
)
def test_a_file_that_is_not_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a report.json"
    path.write_bytes(content)
    assert repr(str(path)) in refusal(lambda: read_report(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(lambda: read_report(tmp_path / "none.json"))
    assert repr(str(tmp_path)) in refusal(lambda: read_report(tmp_path))
    refusal(lambda: read_report("nu\0ll"))


# Plain values


@dataclasses.dataclass(frozen=True)
class Small:
    """Every kind of field that plain values know."""

    class_: str
    sure: bool
    pair: tuple[int, ...]
    named: Mapping[str, Summary]
    values: Floats
    maybe: Summary | None


def test_plain_values_of_every_kind_of_field() -> None:
    five = Summary(3, 0.5, 0.25, 0.0, 1.0)
    small = Small("a", True, (1, 2), {"x": five}, np.array([0.5, math.nan]), None)
    plain = to_plain(small)
    member = {"count": 3, "mean": 0.5, "std": 0.25, "min": 0.0, "max": 1.0}
    assert plain == {
        "class": "a", "sure": True, "pair": [1, 2], "named": {"x": member}, "values": [0.5, None],
        "maybe": None,
    }  # fmt: skip
    assert differences(from_plain(Small, plain), small) == []
    assert from_plain(Small, {**plain, "maybe": member}).maybe == five


def test_the_place_of_a_misfit_starts_where_the_caller_says() -> None:
    assert refusal(lambda: from_plain(Summary, {}, "part")).startswith("part has no member 'count'")
    assert refusal(lambda: from_plain(tuple[bool, ...], [True, 1], "flags")).startswith("flags[1] is int")


def test_plain_values_do_not_share_arrays() -> None:
    numbers = np.arange(3)
    plain = to_plain({1: numbers, "nested": [(numbers,)]})
    numbers[0] = 9
    assert plain == {"1": [0, 1, 2], "nested": [[[0, 1, 2]]]}


# Files written whole


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_whole(path, "first\n层\n")
    assert path.read_bytes() == "first\n层\n".encode()
    write_whole(str(path), "second")
    assert path.read_text(encoding="utf-8") == "second"
    assert names_in(tmp_path) == ["out.json"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), KeyboardInterrupt(), None],
    ids=["full", "ctrl-c", "text"],
)
def test_a_failed_write_leaves_what_was_there(
    error: BaseException | None, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    if there:
        path.write_text("old")

    def fail(_: int) -> None:
        assert error is not None
        raise error

    if error is not None:
        monkeypatch.setattr(files.os, "fsync", fail)  # type: ignore[attr-defined]
    text = "new" if error is not None else "new \ud800"
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ReportError
    with pytest.raises(expected) as caught:
        write_whole(path, text)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if there else [])
    if expected is ReportError:
        assert str(caught.value).startswith(f"cannot write {str(path)!r}: ")
        assert len(str(caught.value).splitlines()) == 1


def test_the_old_content_stands_until_the_new_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    seen: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda _: seen.append(path.read_text()))  # type: ignore[attr-defined]
    write_whole(path, "new")
    assert (seen, path.read_text()) == (["old"], "new")


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_new_file_has_the_umasks_permissions(umask: int, tmp_path: Path) -> None:
    path, before = tmp_path / "out.json", os.umask(umask)
    try:
        write_whole(path, "x")
        assert os.umask(umask) == umask, "the umask was not given back"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_an_old_file_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    path.chmod(mode)
    write_whole(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_links_target_is_replaced_and_not_the_link(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target, link = folder / "target.json", tmp_path / "link.json"
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names_in(folder) == ["target.json"]


@posix
def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    path, got = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    write_whole(path, "through 层")
    reader.join(timeout=5)
    assert got == ["through 层"]
    assert stat.S_ISFIFO(path.stat().st_mode)


@posix
def test_devices_are_written_to_directly() -> None:
    write_whole(os.devnull, "gone")
    assert not Path(os.devnull).is_file()
    code = "from normscope.results.atomic_write import write_whole; write_whole('/dev/stdout', 'shown')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("shown", "")


def unwritable(folder: Path) -> dict[str, str]:
    (folder / "file").write_text("a file")
    (folder / "folder").mkdir()
    return {
        "missing": str(folder / "none" / "out.json"),
        "below a file": str(folder / "file" / "out.json"),
        "folder": str(folder / "folder"),
        "empty": "",
        "null": "nu\0ll",
        "long": str(folder / ("x" * 300)),
    }


@pytest.mark.parametrize("case", ["missing", "below a file", "folder", "empty", "null", "long"])
def test_a_place_that_cannot_be_written_is_named(case: str, tmp_path: Path) -> None:
    path = unwritable(tmp_path)[case]
    with pytest.raises(ReportError) as caught:
        reports.minilm().to_json(path)
    assert str(caught.value).startswith(f"cannot write {path!r}: ")
    assert str(caught.value).endswith("; name a writable file")
    assert len(str(caught.value).splitlines()) == 1
    assert names_in(tmp_path) == ["file", "folder"]


@posix
def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(ReportError, match="cannot write"):
        write_whole(link, "x")


@posix
def test_a_full_device_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(ReportError, match="No space left"):
        write_whole("/dev/full", "x")


def test_a_failed_write_of_a_report_keeps_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    reports.minilm().to_json(path)
    with pytest.raises(TypeError):
        files.write_json({**reports.minilm().to_dict(), "normscope": object()}, path, None)
    assert differences(read_report(path), reports.minilm()) == []


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(constant: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(f'{{"schema": {constant}}}')
    with pytest.raises(ReportError, match=f"{constant} is not JSON"):
        read_report(path)


def test_two_layers_of_one_name_are_refused() -> None:
    plain = reports.minilm().to_dict()
    plain["layers"].append(plain["layers"][0])
    with pytest.raises(ReportError, match="two layers of one name"):
        Report.from_dict(plain)


def test_arrays_of_one_layer_that_differ_in_length_are_refused() -> None:
    plain = reports.minilm().to_dict()
    plain["layers"][1]["feature"]["mean"] = [0.5]
    with pytest.raises(ReportError, match=r"arrays of layer 'encoder.*' differ in length"):
        Report.from_dict(plain)


def test_features_are_as_many_as_the_layer_has() -> None:
    data = reports.report([reports.layer("a", features=3, positions=2)]).to_dict()
    data["layers"][0]["features"] = 384
    with pytest.raises(ReportError, match="arrays of layer 'a' differ in length"):
        Report.from_dict(data)


def test_a_number_that_overflows_is_refused_and_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = reports.report([reports.layer("a", features=3, positions=2)]).to_json()
    path.write_text(text.replace('"seconds":', '"seconds": 1e400, "was":'))
    with pytest.raises(ReportError, match=r"report\.json.*seconds is too large.*write it again"):
        read_report(path)
