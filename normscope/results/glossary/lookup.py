"""Looks up glossary entries by name, JSON path or column title, and suggests near names."""

import re

from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.results.glossary.compare import DRIFT
from normscope.results.glossary.curve import CURVE
from normscope.results.glossary.depth import DEPTH
from normscope.results.glossary.entry import Entry
from normscope.results.glossary.topics import read_topic

TOPICS = (
    *map(read_topic, ("run", "layer", "views", "agreement", "explained_variance")),
    CURVE,
    *map(read_topic, ("outliers", "extremes")),
    DEPTH,
    *map(read_topic, ("batch_noise", "batch_composition", "claims", "swap")),
    DRIFT,
    *map(read_topic, ("training", "plan")),
)
ENTRIES = {entry.name: entry for topic in TOPICS for entry in topic.entries}
# The commands whose tables have columns that entries explain.
COMMANDS = tuple(dict.fromkeys(command for entry in ENTRIES.values() for command in entry.commands))

# Parts of the reports that are not in the names of entries.
_LISTS = ("layers", "sizes", "batches", "claims", "evidence", "all", "cumulative", "fold", "points")
# Members of numbers that share one entry.
_MEMBERS = {"summary": ("count", "mean", "std", "min", "max"), "estimate": ("mean", "low", "high")}


def explain(name: str) -> Entry:
    """Return the glossary entry of one number of the reports.

    `name` is its path in the JSON, with or without the lists on the way (`agreement.feature`,
    `.layers[0].agreement.feature`), or its title in a table (for `LN mean`, which is in two tables,
    the one of the list of layers). Upper and lower case, and `_`, `-` and spaces, are equal.
    Raises UsageError when there is no such number.
    """
    return find_entries(name)[0]


def find_entries(name: str) -> tuple[Entry, ...]:
    """Return the entries for a name: the one of that name first, then those with such a column.

    A member of a summary (`token.mean.std`), or of an estimate, gives the entry of its number and that of
    summaries. Raises UsageError with similar names if there is no entry.
    """
    key = _key(name)
    matches = tuple(entry for entry in ENTRIES.values() if key == _key(entry.name))
    matches += tuple(entry for entry in ENTRIES.values() if key in map(_key, entry.columns))
    stem, _, member = key.rpartition(".")
    for shared, members in _MEMBERS.items():
        if not matches and member in members:
            matches = tuple(e for e in ENTRIES.values() if stem == _key(e.name) and shared in e.see_also)
            matches += (ENTRIES[shared],) if matches else ()
    if matches:
        return tuple(dict.fromkeys(matches))
    raise UsageError(
        f"there is no number {quoted(name)}; expected a path in the JSON or a column's title"
        f"{_near(key)}; run normscope explain for all of them"
    )


def children(entry: Entry) -> tuple[Entry, ...]:
    """Return the entries below an entry: those whose names it begins."""
    return tuple(below for below in ENTRIES.values() if below.name.startswith(entry.name + "."))


def columns(command: str) -> dict[str, tuple[Entry, ...]]:
    """Return the entries of the columns of a command's tables, by topic; of `why`, which has lines, of all.

    A number that has the command's name is among them, since `normscope explain` takes it for the command.
    """
    entries = {
        topic.title: tuple(entry for entry in topic.entries if _is_column(entry, command)) for topic in TOPICS
    }
    return {title: listed for title, listed in entries.items() if listed}


def _is_column(entry: Entry, command: str) -> bool:
    if command not in entry.commands or entry.name == "summary":  # S is in no table
        return False
    return bool(entry.columns or entry.brief) or command in ("why", entry.name)


def note(name: str, title: str = "") -> str:
    """Return the line below a table that says what a column holds, under its own or another title."""
    entry = ENTRIES[name]
    return f"{title or entry.column}: {entry.brief}."


def _key(name: str) -> str:
    """Write a name in the one way that all its spellings share."""
    path = re.sub(r"\[[^]]*\]", "", name.strip().lower()).strip(".")
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _LISTS:
        del parts[0]
    return re.sub(r"[\s_-]+", " ", ".".join(parts)).strip()


def _near(key: str) -> str:
    """Name the entries that end or begin with what was asked for, or else those spelled like it."""
    import difflib

    names = {_key(title): entry.name for entry in ENTRIES.values() for title in (entry.name, *entry.columns)}
    near = [name for name in ENTRIES if key and _key(name).rpartition(".")[2] == key]
    near = near or [name for spelled, name in names.items() if key and spelled.startswith(key)]
    near = near or [names[spelled] for spelled in difflib.get_close_matches(key, names, n=4)]
    return f" (is it {', '.join([*dict.fromkeys(near)][:4])}?)" if near else ""
