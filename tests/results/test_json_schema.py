"""The schemas: they are schemas, cover what is written, refuse what is not, and every old report is valid."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError
from typer.testing import CliRunner, Result

from normscope.cli.app import app
from normscope.errors import ReportError, UsageError
from normscope.render.inspect import render_report
from normscope.results.batches import BatchReport
from normscope.results.common import Pooled
from normscope.results.compare import Comparison
from normscope.results.glossary.entry import Glossary
from normscope.results.glossary.lookup import ENTRIES
from normscope.results.inspect import Report
from normscope.results.json_codec import from_plain
from normscope.results.json_schema import RESULTS, json_schema
from normscope.results.layers import Outline, OutlinedLayer, OutlinedModel
from normscope.results.plan import Corpus, RunPlan, Tables, TimedBatch
from normscope.results.reading import read_report
from normscope.results.why import Evidence, Finding, Interval, WhyReport
from tests.conftest import GOLDEN
from tests.results.test_glossary import roots
from tests.support import reports

OLD = sorted(GOLDEN.glob("report-*.json"))


def outline() -> Outline:
    layer = OutlinedLayer("a", 0, "A", "layernorm", None, math.nan, "none", 0, "final")
    return Outline("0", OutlinedModel("m", None, None, "M", 5), (layer,))


def plan() -> RunPlan:
    tables, batch = Tables(1 << 30, 776, 1024, 512), TimedBatch(32, 900, 0.5)
    corpus = Corpus(None, None, False)
    return RunPlan("0", reports.report([]).model, 25, tables, corpus, batch, 1e8, math.nan)


def why() -> WhyReport:
    whole = reports.report([])
    evidence = (
        Evidence("a", "tid.mean", Interval(1.0, 0.5, 1.5)),
        Evidence("b", "late_samples", Interval(2.0)),
    )
    finding = Finding("1a", "claim", evidence, "a", 0.25, "rule", "holds", "normscope batches demo")
    last = Finding("5", "claim", (), None, math.nan, "rule", "not testable here", "normscope batches demo")
    pooled = Pooled((("[CLS]", "a"), ("b",)))
    return WhyReport("0", whole.model, whole.run, 64, 0, (finding, last), pooled, ("a warning",))


MAKERS: dict[str, Callable[[], Any]] = {
    "report": reports.mixed,
    "plan": plan,
    "layers": outline,
    "batches": lambda: reports.batch_report(["a", "b"], momentum=0.1),
    "swap": lambda: reports.swap_report(fits=True),
    "why": why,
    "compare": reports.comparison,
    "explain": lambda: Glossary(tuple(ENTRIES.values())),
}


def test_every_result_has_a_schema() -> None:
    assert {kind for _, kind in RESULTS.values()} >= set(roots())
    assert set(MAKERS) == set(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_written_is_valid_and_all_of_it_is_described(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    data = json.loads(MAKERS[name]().to_json())
    Draft202012Validator(closed(schema)).validate(data)
    Draft202012Validator(json_schema()).validate(data)
    assert schema["title"] == data["schema"] == RESULTS[name][0]


def closed(schema: Any) -> Any:
    """The same schema without room for members that it does not name."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(part) for key, part in schema.items()}
    return {**inner, "additionalProperties": False} if "properties" in schema else inner


@pytest.mark.parametrize("name", RESULTS)
def test_a_member_of_a_later_version_is_allowed_and_a_missing_one_is_not(name: str) -> None:
    validator = Draft202012Validator(json_schema(name))
    data = MAKERS[name]().to_dict()
    validator.validate({**data, "new": 1})
    for key in json_schema(name)["required"]:
        assert not validator.is_valid({other: value for other, value in data.items() if other != key})
    assert not validator.is_valid({**data, "schema": "normscope.other/1"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("layers", 0, "features"), 1.5),
        (("layers", 0, "eps"), "1e-5"),
        (("layers", 0, "token", "mean"), None),
        (("layers", 0, "feature", "variance", 3), "x"),
        (("layers", 0, "position", "count", 0), None),
        (("layers", 0, "agreement", "feature"), [0.5]),
        (("layers", 0, "explained", "token"), 1),
        (("layers",), {}),
        (("run", "max_length"), "long"),
        (("warnings", 0), 5),
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(reports.report(reports.mixed().layers.values(), warnings=["w"]).to_dict())
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValidationError):
        Draft202012Validator(json_schema("report")).validate(data)
    with pytest.raises(ReportError):
        Report.from_dict(data)


def test_unknown_numbers_are_valid() -> None:
    data = reports.mixed().to_dict()
    data["layers"][0]["own_error"] = None
    data["layers"][0]["feature"]["variance"][0] = None
    Draft202012Validator(json_schema("report")).validate(data)
    assert np.isnan(Report.from_dict(data).layers[data["layers"][0]["name"]].own_error)


def test_one_name_is_one_definition() -> None:
    every = json_schema()["$defs"]
    for name in RESULTS:
        own = json_schema(name)["$defs"]
        assert {key: every[key] for key in own} == own


def test_another_name_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"no schema 'reports'; expected one of report, plan, "):
        json_schema("reports")


def test_a_change_of_the_schema_shows(golden: Callable[[str, str], None]) -> None:
    golden("schema.json", json.dumps(json_schema(), indent=1) + "\n")


# Reports of every version


def test_there_is_a_report_of_every_schema_version() -> None:
    versions = {json.loads(path.read_text(encoding="utf-8"))["schema"] for path in OLD}
    assert versions == {f"normscope.report/{n}" for n in range(1, int(Report.SCHEMA.rpartition("/")[2]) + 1)}
    assert len(OLD) >= 2


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_old_reports_are_read_and_shown(path: Path) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    report = read_report(path)
    Draft202012Validator(json_schema("report")).validate(data)
    again = report.to_dict()
    for key in data.keys() - {"layers"}:
        assert kept(again[key], data[key]) == data[key]
    for new, old in zip(again["layers"], data["layers"], strict=True):
        assert {key: kept(new[key], old[key]) for key in old} == old
    assert "BertModel" in render_report(report, layers=[*report.layers], verbose=True)


def kept(new: Any, old: Any) -> Any:
    """The members of a part that the old report had."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {key: kept(new[key], old[key]) for key in old}
    return new


def test_other_results_come_back() -> None:
    for name, kind in (("batches", BatchReport), ("compare", Comparison), ("layers", Outline)):
        made = MAKERS[name]()
        assert kind.from_dict(json.loads(made.to_json())) == made
    written = json.loads(Glossary(tuple(ENTRIES.values())).to_json())
    assert from_plain(Glossary, written, "explain").entries == tuple(ENTRIES.values())


# The command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_the_command_prints_them(tmp_path: Path) -> None:
    for name in RESULTS:
        assert json.loads(run("--schema", name).stdout) == json_schema(name)
    assert json.loads(run("--schema").stdout) == json_schema()
    assert run("report", "--schema", "--json", "-o", str(tmp_path / "s.json")).stdout == ""
    assert json.loads((tmp_path / "s.json").read_text()) == json_schema("report")
    assert (run("--schema", "nope").exit_code, run("--schema", "--format", "markdown").exit_code) == (2, 2)
    assert all(name in run("--help-all").stdout for name in RESULTS)
