"""A group is one parameter to the command that takes it, and options in its place to the parser."""

import inspect
import io
import shlex
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from normscope.cli.app import app
from normscope.cli.option_groups import (
    BatchOptions,
    CountedBatchOptions,
    DataResultOptions,
    FetchOptions,
    LayerOptions,
    LoadOptions,
    command_line,
    grouped,
)
from normscope.cli.options import DataFormat, Order, SpecialTokens
from normscope.cli.text_options import TextOptions
from normscope.data.batching import Batching
from normscope.errors import UsageError
from normscope.models.location import Loading


@dataclass(frozen=True)
class Shared:
    """Two options."""

    size: Annotated[int, typer.Option("--size", help="How large.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name", "-n", help="Which.")] = None


@dataclass(frozen=True)
class Larger(Shared):
    """The same with another default."""

    size: Annotated[int, typer.Option("--size", help="How large.")] = 30


TAKEN: list[Any] = []


@grouped
def small(place: str, *, before: bool = False, shared: Shared, after: bool = False) -> None:
    """Take a group between two options."""
    TAKEN.append((place, before, shared, after))


@grouped
def large(*, shared: Larger) -> None:
    """Take a group alone."""
    TAKEN.append(shared)


APP = typer.Typer()
APP.command()(small)
APP.command()(large)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("small here", ("here", False, Shared(3, None), False)),
        ("small here --after --size 5 -n a --name b", ("here", False, Shared(5, ["a", "b"]), True)),
        ("small here --before -n a", ("here", True, Shared(3, ["a"]), False)),
        ("large", Larger(30, None)),
        ("large --size 1", Larger(1, None)),
    ],
)
def test_a_command_is_handed_its_group(line: str, expected: Any) -> None:
    TAKEN.clear()
    result = CliRunner().invoke(APP, line.split())
    assert result.exit_code == 0, result.output
    assert [expected] == TAKEN


def test_the_options_of_a_group_stand_in_its_place() -> None:
    signature = inspect.signature(small)
    assert list(signature.parameters) == ["place", "before", "size", "names", "after"]
    assert signature.parameters["size"].annotation.__metadata__[0].help == "How large."
    assert (small.__name__, small.__doc__) == ("small", "Take a group between two options.")


def test_a_command_without_a_group_stays_as_it_is() -> None:
    def plain(a: int, b: bool = False) -> None:
        TAKEN.append((a, b))

    assert inspect.signature(grouped(plain)) == inspect.signature(plain)


def test_defaults_are_the_librarys() -> None:
    assert FetchOptions().loading() == LoadOptions().loading() == Loading()
    assert BatchOptions().batching() == CountedBatchOptions().batching() == Batching()


def test_the_library_is_handed_every_option() -> None:
    load = LoadOptions("r", "t", "c", True, True, "cpu", "float16", "eager", True)
    assert load.loading() == Loading(
        "r", "t", "c", True, True, "cpu", "float16", "eager", random_weights=True
    )
    batch = CountedBatchOptions(9, True, 8, "auto", Order.GIVEN, special_tokens=SpecialTokens.EXCLUDE)
    assert batch.batching() == Batching("auto", 8, "given", "exclude", 9, True)
    assert BatchOptions(9, False, 8, "4", Order.GIVEN).batching() == Batching(4, 8, "given", "include", 9)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(LoadOptions(token="secret"))


def test_as_data_only_the_layers_that_are_shown_are_measured() -> None:
    layers = LayerOptions(["a.*"], ["b.*"])
    assert layers.selection(as_data=True) == {"layers": ["b.*"], "exclude": ["a.*"]}
    assert layers.selection(as_data=False) == {"layers": (), "exclude": ["a.*"]}
    assert LayerOptions().selection(as_data=True) == {"layers": (), "exclude": ()}


def test_formats_that_contradict_each_other_are_refused() -> None:
    assert DataResultOptions(json=True).chosen_format() is DataFormat.JSON
    with pytest.raises(UsageError, match="--json and --format markdown"):
        DataResultOptions(format=DataFormat.MARKDOWN, json=True).chosen_format()
    with pytest.raises(UsageError, match="--plot and --format json"):
        DataResultOptions(json=True).chosen_format(plot=True)


NAMED = TextOptions(text=["-x it's", "a; rm b", "*"], file=["my texts.txt", "-"], field="the text")
BATCH = CountedBatchOptions(9, True, 8, "auto", Order.GIVEN, SpecialTokens.EXCLUDE)
SOURCE = LoadOptions("r", None, "the cache", True, True, "cpu", "float16", "eager", True)


def test_a_command_line_reads_as_the_options_that_were_given() -> None:
    line = command_line(BATCH, SOURCE, NAMED)
    commands: Any = typer.main.get_command(app)
    context = commands.commands["batches"].make_context("batches", ["demo", *shlex.split(line)])
    for name, value in (vars(BATCH) | vars(SOURCE) | vars(NAMED)).items():
        assert context.params[name] == (value.value if isinstance(value, Enum) else value), name


def test_a_command_line_has_no_default_and_no_secret() -> None:
    assert command_line(BatchOptions(), LoadOptions(token="secret"), TextOptions()) == ""
    assert command_line(BatchOptions(limit=0)) == "--limit 0"


def test_a_pipe_is_named_in_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one"))
    assert command_line(TextOptions(field="a").explicit()) == "--field a -"
    assert TextOptions(file=["x"]).explicit() == TextOptions(file=["x"])
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert TextOptions().explicit() == TextOptions()
