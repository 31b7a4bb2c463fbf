"""The glossary: every number of every report has its entry, every entry holds up, every name is found."""

import dataclasses
import functools
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from typer.main import get_command
from typer.testing import CliRunner, Result

import normscope
from normscope.cli.app import app
from normscope.errors import UsageError
from normscope.render.batch_composition import fillings
from normscope.render.batches import detail, noisiest, over_layers
from normscope.render.compare import drifts
from normscope.render.depth import depth_grids
from normscope.render.explain import (
    render_columns,
    render_columns_markdown,
    render_entries,
    render_entries_markdown,
    render_glossary,
    render_glossary_markdown,
)
from normscope.render.glyphs import UNICODE
from normscope.render.grid import Column, Grid
from normscope.render.layer import feature_table, position_table
from normscope.render.layers import outline_grid
from normscope.render.markdown import escape
from normscope.render.outliers import outliers_by_layer, recurring_outliers
from normscope.render.summary import details, headline, summary, workload
from normscope.render.swap import grids as swap_grids
from normscope.render.terminal import Screen
from normscope.render.track import movers
from normscope.render.trajectory import revisions
from normscope.results.base import Result as SavedResult
from normscope.results.common import Summary as Five
from normscope.results.glossary import lookup
from normscope.results.glossary.entry import EXPLAIN_SCHEMA, NOTATION, Entry, Glossary
from normscope.results.glossary.lookup import COMMANDS, ENTRIES, TOPICS, children, explain, find_entries
from normscope.results.glossary.lookup import columns as command_columns
from normscope.results.inspect import Report
from normscope.results.layers import LayerReaders, Outline, OutlinedLayer, OutlinedModel
from normscope.results.swap import Estimate
from normscope.statistics.views import COMPARED
from tests.support import models, reports

# Entries, columns and commands that nothing prints yet. Empty them, name by name, as these come.
PLANNED: set[str] = set()
PLANNED_COLUMNS: set[str] = set()
PLANNED_COMMANDS: set[str] = set()

# Numbers that only a table has, members of a report that are words, and entries on several numbers.
DERIVED = {
    "late_reach", "late_noise_ratio", "explained_difference", "explained_by_words", "likeness_kept",
    "likeness_difference", "scale_difference", "noise_ratio",
    "effect.damage", "own_output.distance", "own_output.near_one", "tid.length_ratio",
}  # fmt: skip
WORDS = {"verdict", "kind", "affine", "place", "layout", "readers"}
SHARED = {"summary", "estimate", "replacement", "depth"}
# Columns of words that need no entry: what a row is about.
LABELS = {"layer", "layer of B", "full name", "module", "kind", "affine", "layout", "place"}
LABELS |= {"not folded because", "revision", "commit", "same weights as"}
# What is said above and below the tables, and in the documentation of the JSON.
BESIDE = {"of", "longest", "skipped", "truncated", "sd within 10%", "S"}
# The keys of a mapping from words to numbers are known to the code, not to its type.
KEYS = {"agreement": COMPARED}
# Lists of records that keep their name in the path: what is in them goes by names that others have, too.
NAMED = {"outlier_features"}
# What holds the numbers of a layer for all layers together.
LIKE_A_LAYER = {"all", "fold"}


def roots() -> list[type[SavedResult]]:
    """Every report that is written: the records of the package that know their JSON."""
    for module in pkgutil.walk_packages(normscope.__path__, "normscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return SavedResult.__subclasses__()


def members(kind: Any) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    yield from ((field.name.rstrip("_"), hints[field.name]) for field in dataclasses.fields(kind))


def is_number(kind: Any) -> bool:
    return kind in (int, float, Estimate) or is_summary(kind) or typing.get_origin(kind) is np.ndarray


def is_summary(kind: Any) -> bool:
    return kind is Five


def numbers(kind: Any, path: str = "", leaf: Callable[[Any], bool] = is_number) -> Iterator[str]:
    """Name every number or array of numbers that a value of this type holds, without its lists."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if leaf(kind):
        yield path
    elif dataclasses.is_dataclass(kind):
        for name, below in members(kind):
            nameless = name in LIKE_A_LAYER or (lists_records(below) and name not in NAMED)
            yield from numbers(below, path if nameless else f"{path}.{name}".lstrip("."), leaf)
    elif origin is Mapping and not lists_records(kind):
        yield from (f"{path}.{key}" for key in KEYS[path] if [*numbers(arguments[1], path, leaf)])
    else:
        yield from (name for argument in arguments for name in numbers(argument, path, leaf))


def lists_records(kind: Any) -> bool:
    """Whether it is a list of records, or a mapping to them, if it is there at all."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(map(lists_records, arguments))
    return origin in (tuple, list, Mapping) and any(map(dataclasses.is_dataclass, arguments))


REPORTED = {name for root in roots() for name in numbers(root)}


def parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:i]) for i in range(1, len(parts))}


# Completeness


def test_the_walk_finds_numbers_of_every_shape() -> None:
    @dataclasses.dataclass
    class Part:
        array: np.ndarray[Any, np.dtype[np.float64]]
        five: Five | None
        word: str | None

    @dataclasses.dataclass
    class Whole:
        parts: Mapping[str, Part]
        more: tuple[Part, ...] | None
        global_: Part
        size: int | None
        many: tuple[int, ...]
        words: tuple[str, ...]
        agreement: Mapping[str, float] | None

    listed = ["array", "five"]
    views = [f"agreement.{view}" for view in COMPARED]
    assert [*numbers(Whole)] == [*listed, *listed, "global.array", "global.five", "size", "many", *views]


def test_the_reports_are_found() -> None:
    assert {Report, Outline} <= set(roots())
    assert {
        "token.mean",
        "feature.variance",
        "run.padding_share",
        "global.mean",
        "stored_gap.mean",
    } <= REPORTED
    assert {"agreement.position_feature", "explained.position.epsilon2", "parameters"} <= REPORTED


@pytest.mark.parametrize("name", sorted(REPORTED))
def test_every_number_of_every_report_is_explained(name: str) -> None:
    assert name in ENTRIES, f"{name} is in a report: write its entry in normscope/results/glossary"
    assert name not in PLANNED, f"{name} has come: take it off PLANNED"
    assert parents(name) <= set(ENTRIES)


def test_no_entry_is_about_what_no_report_has() -> None:
    real = REPORTED | {above for name in REPORTED for above in parents(name)}
    assert set(ENTRIES) - real == PLANNED | DERIVED | WORDS | SHARED
    assert all(above in ENTRIES for name in ENTRIES for above in parents(name))
    fields = {name for root in roots() for kind in records(root) for name, _ in members(kind)}
    assert fields >= WORDS


def records(kind: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(kind):
        yield kind
        for _, below in members(kind):
            yield from records(below)
    for argument in typing.get_args(kind):
        yield from records(argument)


def columns() -> Iterator[Column]:
    for report in (reports.minilm(), reports.worded(), reports.llama(), reports.mixed()):
        yield from summary(report, [*report.layers.values()], [], Screen(300)).columns
        yield from details(report).columns
        for table in (recurring_outliers(report, 5), outliers_by_layer(report)):
            yield from table.columns if table else ()
        for layer in report.layers.values():
            for grid in (position_table(layer, 5, UNICODE), feature_table(layer, 5, UNICODE)):
                yield from grid.columns if grid else ()
    for profile in depth_grids(reports.profiled(), Screen(300), every=True):
        assert isinstance(profile, Grid)
        yield from profile.columns
    model = OutlinedModel("m", None, None, "M", 5)
    unlike = [
        OutlinedLayer("a", 0, "A", "layernorm", 8, 1e-5, "none", 0, "final"),
        OutlinedLayer("b", 1, "B", "rmsnorm", 4, 1e-6, "weight", 4, "other", LayerReaders(("f",), (), None)),
    ]
    yield from outline_grid(Outline("0", model, tuple(unlike)), verbose=True)[0].columns
    yield from drifts(reports.comparison(), 12, UNICODE).columns
    yield from movers(reports.track(), 12, UNICODE).columns
    yield from revisions(reports.trajectory(), UNICODE).columns
    variants: list[dict[str, Any]] = [{"fold": True}, {"head": None}, {"fits": True}]
    for swap in (reports.swap_report(**variant) for variant in variants):
        yield from (column for grid in swap_grids(swap, UNICODE) for column in grid.columns)
    batches = reports.batch_report(momentum=0.1)
    grids = [over_layers(batches, [], UNICODE), *fillings(batches, 5)]
    for grid in (*grids, *detail(batches.layers[noisiest(batches)[0]], 9, UNICODE)):
        for column in grid.columns:  # One number in batches of several sizes and orders.
            several = re.fullmatch(r"random|by length|\d+ texts?", column.about)
            yield dataclasses.replace(column, about="") if several else column


TITLES = {f"{column.title} {column.about}".strip() for column in columns()} - {""}


@pytest.mark.parametrize("title", sorted(TITLES))
def test_every_column_is_explained(title: str) -> None:
    if title not in LABELS:
        assert find_entries(title)
    if title in {"position", "feature"}:  # what a row is about, and a part of the report of that name
        assert find_entries(title)[0].name == title


def test_the_titles_of_an_entry_are_those_of_the_tables() -> None:
    titles = {title.lower() for title in TITLES} | {column.title.lower() for column in columns()}
    said = {name for entry in ENTRIES.values() for name in entry.columns}
    assert {name for name in said if name.lower() not in titles} == BESIDE | PLANNED_COLUMNS
    assert LABELS <= TITLES
    facts = " ".join([*workload(reports.minilm()), *headline(reports.minilm())])
    assert {"texts", "truncated", "longest", "padding", "parameters"} <= set(re.findall("[a-z]+", facts))


def test_every_title_of_a_table_is_among_the_columns_of_a_command() -> None:
    listed = " ".join(
        entry.column for name in COMMANDS for listed in command_columns(name).values() for entry in listed
    )
    labels = {"full name", "layer of B", "module", "not folded because"}
    labels |= {"revision", "commit", "same weights as"}
    assert {title for title in TITLES if title not in listed} == labels


# Entries


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry: Entry) -> None:
    texts = [entry.title, entry.definition, entry.formula, entry.range, entry.reading, entry.source]
    for text in (entry.name, *texts, *entry.columns, entry.meaning):
        assert text.isascii()
        assert text == " ".join(text.split()) != ""
    assert re.fullmatch(r"[a-z0-9_.]+", entry.name)
    assert len(entry.title) <= 48
    assert entry.definition.endswith(".")
    assert entry.reading.endswith(".")
    assert not {entry.title[-1], entry.range[-1], entry.source[-1]} & {".", ";", " "}
    assert max(map(len, entry.formula.split("; "))) <= 66
    assert set(entry.see_also) <= set(ENTRIES) - {entry.name}
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert entry.commands
    assert set(entry.commands) <= commands | PLANNED_COMMANDS
    assert not commands & PLANNED_COMMANDS, "a command has come: take it off PLANNED_COMMANDS"


@pytest.mark.parametrize("name", sorted(REPORTED | DERIVED))
def test_a_number_has_a_range(name: str) -> None:
    bounds = r"(any number|\d or more|0 to 1|0 to run\.texts|-1 to 1|-\(G - 1\) / \(\|V\| - G\) to 1)\b"
    arrays = r"[DT] (whole )?numbers, (any|(each )?(0 or more|within \+-))"
    assert re.match(f"{bounds}|{arrays}", ENTRIES[name].range)


@pytest.fixture(scope="module")
def measured() -> Report:
    """A report of LayerNorms on texts that differ in length."""
    model = models.bert()
    mask = (torch.arange(12) < torch.tensor([12, 7, 5, 5, 3, 1])[:, None]).long()
    ids = torch.randint(0, 100, mask.shape, generator=torch.Generator().manual_seed(0))
    with normscope.watch(model) as watcher:
        model(input_ids=ids, attention_mask=mask)
    return watcher.report()


def test_ranges_hold(measured: Report) -> None:
    plain = measured.to_dict()
    counted = 0
    for name in REPORTED:
        entry = ENTRIES[name]
        low = re.match(r"(?:\w+ (?:whole )?numbers, (?:each )?)?(-?\d) (or more|to 1)", entry.range)
        for value in values(plain, name) if low else ():
            assert float(low[1]) <= value <= (1 if low[2] == "to 1" else np.inf), name  # type: ignore[index]
            counted += 1
    assert counted > 500


def values(report: dict[str, Any], name: str) -> Iterator[float]:
    """Every number that a report has under a name, out of summaries and arrays, too."""
    for place in (report, *report["layers"]):
        part: Any = place
        for key in name.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        part = [part["min"], part["max"]] if isinstance(part, dict) else part
        listed = part if isinstance(part, list) else [part]
        yield from (value for value in listed if isinstance(value, int | float))


def test_what_entries_say_of_other_entries(measured: Report) -> None:
    for layer in measured.layers.values():
        token, feature, position, own = layer.token, layer.feature, layer.position, layer.own_output
        everything, explained, first = layer.global_, layer.explained, layer.first_position
        assert token and feature and position and own and everything and explained and first  # noqa: PT018
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        assert feature.count == layer.count == measured.run.tokens - layer.nonfinite
        close(position.mean, position.token_mean)
        assert (position.variance >= position.token_variance * (1 - 1e-6)).all()
        close([token.mean.mean, feature.mean.mean()], everything.mean)
        close(token.variance.mean + token.mean.std**2, everything.variance)
        close(feature.variance.mean() + feature.mean.var(), everything.variance)
        close((own.mean**2 + own.variance).mean(), 1)
        assert (abs(own.mean) <= np.sqrt(layer.features - 1)).all()
        for effect, groups in ((explained.position, 12), (explained.sequence, 6)):
            assert effect.epsilon2 >= -(groups - 1) / (layer.count - groups)
            assert effect.epsilon2 < effect.eta2
        close(first.rms**2, position.token_variance[0])
        close(first.rest_rms**2, np.average(position.token_variance[1:], weights=position.count[1:]))


def test_every_file_of_a_topic_is_read() -> None:
    files = [*Path(lookup.__file__).parent.glob("*.md")]
    assert files
    titles = {path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in files}
    assert titles <= {topic.title for topic in TOPICS}


def test_names_and_titles_are_told_apart() -> None:
    assert len(ENTRIES) == sum(len(topic.entries) for topic in TOPICS)
    assert len({entry.title for entry in ENTRIES.values()}) == len(ENTRIES)
    assert len({entry.definition for entry in ENTRIES.values()}) == len(ENTRIES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        explain("agreement.feature").range = "wide"  # type: ignore[misc]


def test_summaries_are_said_to_be_ones() -> None:
    summaries = {name for root in roots() for name in numbers(root, leaf=is_summary)}
    assert {"token.mean", "instance.variance"} <= summaries
    for name in summaries:
        assert "summary" in ENTRIES[name].see_also
        assert "summarised over" in ENTRIES[name].formula


# Finding them


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_found_by_its_name(name: str) -> None:
    for spelled in (name, name.upper(), name.replace("_", "-"), f".layers[].{name}", f"layers[12].{name}"):
        assert explain(spelled) is ENTRIES[name]
    assert normscope.explain(name) is ENTRIES[name]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("LN mean", ["token.mean", "position.token_mean"]),
        ("bn  VARIANCE", ["feature.variance", "position.variance"]),
        ("agreement with BN", ["agreement.feature"]),
        ("position explains", ["explained.position.epsilon2"]),
        ("best BN fit r2", ["affine_fit.r2"]),
        ("distance", ["distance", "own_output.distance"]),
        ("own error", ["own_error"]),
        ("texts", ["run.texts", "position.count"]),
        ("token.mean.std", ["token.mean", "summary"]),
        ("layers[].sizes[0].tid.mean.max", ["tid.mean", "summary"]),
        (".batches[3].padding_share", ["padding_share"]),
        ("padding", ["run.padding_share", "padding_share"]),
        ("S", ["summary"]),
        ("layers[3].effect.kl.low", ["effect.kl", "estimate"]),
        (".all.effect.perplexity", ["effect.perplexity"]),
        ("agreement", ["agreement"]),
    ],
)
def test_what_a_name_stands_for(asked: str, names: list[str]) -> None:
    assert [entry.name for entry in find_entries(asked)] == names


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("agrement.feature", "agreement.feature"),
        ("epsilon2", "explained.position.epsilon2, explained.sequence.epsilon2"),
        ("LN", "token.mean"),
        ("feature.variance.std", "feature.variance"),
        ("zzz", ""),
        ("", ""),
        ("\x1b[31m\n", ""),
    ],
)
def test_an_unknown_name_is_wrong_usage(asked: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain(asked)
    message = str(caught.value)
    assert message.isprintable()
    assert near in message
    assert bool(near) == ("is it" in message)


def test_what_is_below_a_part() -> None:
    assert [entry.name for entry in children(ENTRIES["agreement"])] == [
        f"agreement.{view}" for view in COMPARED
    ]
    assert [*children(ENTRIES["agreement.feature"])] == []


# What is shown

SHOWN: list[tuple[str, Callable[..., str]]] = [
    ("explain", render_glossary),
    (
        "explain-agreement",
        lambda screen: render_entries(
            find_entries("agreement"), children(find_entries("agreement")[0]), screen
        ),
    ),
    ("explain-inspect", functools.partial(render_columns, "inspect")),
    ("explain-why", functools.partial(render_columns, "why")),
    ("explain-variance", lambda screen: render_entries(find_entries("BN variance"), (), screen)),
]


@pytest.mark.parametrize(("name", "render"), SHOWN, ids=[name for name, _ in SHOWN])
@pytest.mark.parametrize("width", [80, 200])
def test_golden(
    name: str, render: Callable[..., str], width: int, golden: Callable[[str, str], None]
) -> None:
    golden(f"{name}-{width}.txt", render(screen=Screen(width)))


def test_golden_markdown(golden: Callable[[str, str], None]) -> None:
    golden(
        "explain-agreement.md",
        render_entries_markdown(find_entries("agreement"), children(find_entries("agreement")[0])),
    )


@pytest.mark.parametrize("width", [1, 60, 79, 80, 133, 500])
def test_lines_fit_and_nothing_is_cropped(width: int) -> None:
    screen = Screen(width, unicode=False)
    listed, full = render_glossary(screen), render_entries([*ENTRIES.values()], (), screen)
    tables = "".join(render_columns(command, screen) for command in COMMANDS)
    assert (listed + full + tables).isascii()
    assert max(map(cell_len, (listed + full + tables).splitlines())) <= max(width, 60)
    words = " ".join(full.split())
    for entry in ENTRIES.values():
        assert entry.name in listed
        assert " ".join(entry.definition.split()) in words
        assert entry.formula.replace("; ", " ") in words
        assert width < 80 or all(part in full for part in entry.formula.split("; "))


def test_markdown_has_everything() -> None:
    text = render_entries_markdown([*ENTRIES.values()])
    assert text.count("| definition |") == len(ENTRIES)
    assert render_glossary_markdown().count("\n| ") == len(ENTRIES) + 2 * len(TOPICS)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()} == {3}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_columns_hold(command: str) -> None:
    text = render_columns_markdown(command)
    entries = [*chain(*command_columns(command).values())]
    assert len(entries) > 5
    assert text.count("\n| ") == len(entries) + 2 * len(command_columns(command))
    for entry in entries:
        meaning = entry.meaning if entry.columns or entry.brief else entry.title[1:]
        assert f"| {escape(entry.column)} | " in text
        assert escape(meaning) in text
    assert all(name in render_glossary() for name in COMMANDS)


def test_a_number_with_the_name_of_a_command_is_listed_for_it() -> None:
    named = set(COMMANDS) & set(ENTRIES)
    assert named == {"batches"}
    for name in named:
        assert ENTRIES[name] in [*chain(*command_columns(name).values())]


# The command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_the_command_writes_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    entries = find_entries("agreement")
    below = children(entries[0])
    for arguments, text in (
        ([], render_glossary()),
        (["agreement"], render_entries(entries, below)),
        (["agreement", "with", "bn"], render_entries(find_entries("agreement.feature"))),
        (["--format", "markdown"], render_glossary_markdown()),
        (["agreement", "--format", "markdown"], render_entries_markdown(entries, below)),
        (["agreement", "--json"], Glossary((*entries, *below)).to_json()),
        (["--json"], Glossary(tuple(ENTRIES.values())).to_json()),
        (["inspect"], render_columns("inspect")),
        (["inspect", "--format", "markdown"], render_columns_markdown("inspect")),
        (["inspect", "--json"], Glossary(tuple(chain(*command_columns("inspect").values()))).to_json()),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (0, text, "")
    assert run("own error", "--json", "-o", str(tmp_path / "out")).stdout == ""
    written = json.loads((tmp_path / "out").read_text(encoding="utf-8"))
    assert (written["schema"], written["notation"]) == (EXPLAIN_SCHEMA, NOTATION)
    values = dataclasses.asdict(ENTRIES["own_error"])
    assert values.pop("brief")
    assert written["entries"] == [json.loads(json.dumps(values))]


def test_the_command_refuses() -> None:
    unknown = run("agrement")
    assert (unknown.exit_code, unknown.stdout, len(unknown.stderr.splitlines())) == (2, "", 1)
    assert "agreement" in unknown.stderr
    assert run("", "--json").exit_code == 2
    assert run("--json", "--format", "markdown").exit_code == 2


def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # one of them writes a file
    lines = run("--help-all").stdout.splitlines()
    examples = [
        line.split("|", maxsplit=1)[0].split()[1:] for line in lines if line.startswith("    normscope ")
    ]
    assert len(examples) >= 4
    for arguments in examples:
        assert CliRunner().invoke(app, arguments).exit_code == 0


def test_it_starts_without_anything_heavy() -> None:
    code = (
        "import sys\nfrom normscope.cli.app import app\nsys.argv = ['normscope', 'explain', 'token']\n"
        "import atexit\n"
        "heavy = {'torch', 'transformers', 'numpy'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from normscope.cli.start import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stderr == "[]\n"
