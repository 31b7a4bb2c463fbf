"""Reads the topics of the glossary from their Markdown files.

A file has the title of its topic and the facts that its entries share, then a heading, a definition and more
facts for each entry, such as

    ## count: how many rows the layer's numbers rest on
    The rows of the layer's input that count.
    - formula: `count = |V|`
    - see also: run.tokens; nonfinite

Facts are the fields of `Entry`. A source may name one of `SOURCES` in braces.
"""

import re
from pathlib import Path
from typing import Any

from normscope.results.glossary.entry import SOURCES, Entry, Topic

_LISTS = ("commands", "see_also", "columns")


def read_topic(name: str) -> Topic:
    """Return the topic of the file `name`.md."""
    text = Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8")
    head, *sections = re.split(r"^##? ", text, flags=re.MULTILINE)[1:]
    title, _, shared = _parse(head)
    return Topic(title, tuple(_entry(section, shared) for section in sections))


def _entry(section: str, shared: dict[str, Any]) -> Entry:
    heading, definition, facts = _parse(section)
    name, _, title = heading.partition(": ")
    return Entry(name=name, title=title, definition=definition, **{**shared, **facts})


def _parse(section: str) -> tuple[str, str, dict[str, Any]]:
    """Return the heading of a section, its paragraph, and its list of facts by the names of their fields."""
    heading, _, body = section.partition("\n")
    paragraph, *items = (" ".join(part.split()) for part in re.split(r"^- ", body, flags=re.MULTILINE))
    facts: dict[str, Any] = {}
    for item in items:
        label, _, text = item.partition(": ")
        field = label.replace(" ", "_")
        facts[field] = tuple(text.split("; ")) if field in _LISTS else text.strip("`")
    if "source" in facts:
        facts["source"] = facts["source"].format_map(SOURCES)
    return heading, paragraph, facts
