"""Every command's --help is short, --help-all complete, examples parse; and wrong usage is one line."""

import io
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

import pytest
import typer
from typer.testing import CliRunner

from normscope.cli.app import app
from normscope.cli.help_sections import EXPLAINED, MOST_USED, SECTIONS
from normscope.results.glossary.lookup import COMMANDS as IN_GLOSSARY

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def help_of(name: str, option: str = "--help-all", width: int = 80) -> str:
    """Return a help for a terminal of a width: typer's runner has 80 columns, whatever COLUMNS says."""
    text = io.StringIO()
    with redirect_stdout(text), mock.patch.dict(os.environ, COLUMNS=str(width)):
        assert app([*name.split(), option], prog_name="normscope", standalone_mode=False) == 0
    return text.getvalue()


def examples(text: str) -> list[str]:
    (block,) = re.findall(r"^  Examples:\n((?:    .*\n)+)", text, re.MULTILINE)
    return [line.strip() for line in block.splitlines()]


def calls(example: str) -> Iterator[list[str]]:
    """Yield the words after each `normscope` in a line of shell."""
    tokens = shlex.shlex(example, posix=True, punctuation_chars="|><&;")
    tokens.whitespace_split = True
    words: list[str] = []
    for word in [*tokens, "|"]:
        if set(word) <= set("|><&;"):
            if words[:1] == ["normscope"]:
                yield words[1:]
            words = []
        else:
            words.append(word)


def options_in(text: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[\w-]+)", text.partition("  Examples:")[0], re.MULTILINE)


def declared(name: str) -> list[str]:
    return [max(p.opts, key=len) for p in COMMANDS[name].params if p.param_type_name == "option"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_is_complete(name: str) -> None:
    text = help_of(name)
    first = re.sub(r"\s+", " ", text.split("\n\n")[1]).strip()
    assert first.endswith(".")
    assert len(re.findall(r"(?<!\.\.)\. ", first)) == 0
    for parameter in COMMANDS[name].params:
        assert (parameter.help or "").rstrip().endswith((".", "...")), parameter.name
    assert sorted(options_in(text)) == sorted([*declared(name), "--help"])
    assert re.search(r"Exit codes: 0 done, 1 failed, 2 wrong usage", text)
    titles = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert titles == [title for title in ("Arguments", *SECTIONS, "Other") if title in titles]
    assert titles[-1] == "Other"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("option", ["--help", "--help-all"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_as_wide_as_the_terminal(name: str, option: str, width: int) -> None:
    text = help_of(name, option, width)
    lines = text.splitlines()
    assert text.isascii()
    assert max(map(len, lines)) <= max(min(width, 100), 80)  # examples and lists are never broken
    assert width < 80 or not [line for line in lines if re.search(r"--\w[\w-]*-$", line)]
    assert width < 100 or max(map(len, lines)) > 80 or option == "--help"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short(name: str, width: int) -> None:
    text = help_of(name, "--help", width)
    assert len(text.splitlines()) <= 40
    options = options_in(text)
    assert len(options) == len(MOST_USED[name]) == min(8, len({*declared(name)} - {"--help-all"}))
    assert options == [
        max(p.opts, key=len) for used in MOST_USED[name] for p in COMMANDS[name].params if p.name == used
    ]
    lines = examples(text)
    assert len(lines) == 4
    assert lines == examples(help_of(name))[:4]
    assert text == help_of(name, "-h", width)
    *_, explained, last = text.splitlines()
    assert last == f"all options: normscope {name} --help-all"
    assert (name in EXPLAINED) == explained.startswith("what its numbers mean: normscope explain ")


def test_the_top_says_what_to_run() -> None:
    text = help_of("", "--help")
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 80
    wants = re.findall(r"^    (\w.*?)  +(normscope .*)$", text, re.MULTILINE)
    assert len(wants) == 7
    for _, example in wants:
        for command, *words in calls(example):
            with COMMANDS[command].make_context(command, words) as context:
                assert context.params
    assert "normscope.NormCallback(every=100)" in text


def test_what_help_says_to_explain_is_explained() -> None:
    assert set(EXPLAINED.values()) == set(IN_GLOSSARY)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    lines = examples(help_of(name))
    assert len(lines) > 1
    found = [call for line in lines for call in calls(line)]
    assert len(found) >= len(lines)
    assert any(call[0] == name for call in found)
    for command, *words in found:
        # Raises for an option that there is not, a value out of range, an argument that is missing.
        with COMMANDS[command].make_context(command, words) as context:
            assert context.params


def test_an_example_that_is_wrong_is_found() -> None:
    (call,) = calls("cat a.txt | normscope inspect gpt2 --jsn | jq '.layers[0] | .name'")
    assert call == ["inspect", "gpt2", "--jsn"]
    with pytest.raises(Exception, match="No such option"):
        COMMANDS["inspect"].make_context("inspect", call[1:])


def test_every_section_is_of_options_that_there_are() -> None:
    names = {parameter.name for command in COMMANDS.values() for parameter in command.params}
    assert list(MOST_USED) == list(COMMANDS)
    listed = [name for section in SECTIONS.values() for name in section]
    assert set(listed) <= names
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("before", "option"), [("--file", "--calibration"), ("--device", "--device-map"), ("--json", "--plot")]
)
def test_an_option_of_one_command_stands_where_it_belongs_among_a_groups(before: str, option: str) -> None:
    texts = [help_of(command) for command in COMMANDS]
    lists = [*map(options_in, texts)]
    found = [listed[listed.index(option) - 1] for listed in lists if option in listed]
    assert found
    assert set(found) == {before}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("inspect m --format x", "--format is 'x'; expected table, json, jsonl, csv or markdown; pick one"),
        ("layers m --format csv", "--format is 'csv'; expected table, json, markdown or mappings; pick one"),
        ("inspect m --order=x", "--order is 'x'; expected length or given; pick one"),
        ("inspect m --special-tokens ''", "--special-tokens is ''; expected include or exclude; pick one"),
        (
            "layers m --format 'a\nb\x1b'",
            r"--format is 'a\nb\x1b'; expected table, json, markdown or mappings; pick one",
        ),
        ("inspect m -b x", "--batch-size is 'x'; expected a whole number, or auto; change it"),
        ("inspect m --top 1.5", "--top is '1.5'; expected a whole number; change it"),
        ("inspect m --top 0", "--top is '0'; expected 1 or more; change it"),
        ("batches m --momentum x", "--momentum is 'x'; expected a number; change it"),
        ("inspect", "missing argument 'MODEL'; see normscope inspect --help"),
        ("nope", "no such command 'nope'; see normscope --help"),
    ],
)
def test_wrong_usage_is_one_line(line: str, said: str) -> None:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="normscope")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {said}\n")


def test_a_choice_names_every_choice() -> None:
    result = CliRunner().invoke(app, ["swap", "m", "--kind", "norm"])
    assert result.stderr == (
        "error: --kind is 'norm'; expected batchnorm, batchnorm-fitted, batchnorm-batch, frozen, "
        "identity, rmsnorm, scale-feature, centre-feature, scale-sequence, centre-sequence, dyt or "
        "derf; pick one\n"
    )


@pytest.mark.parametrize("arguments", [["--nope"], ["inspect", "m", "--nope"]])
def test_an_option_that_there_is_not(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="normscope")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert result.stderr.startswith("error: no such option: --nope")
    assert result.stderr.endswith("--help\n")
