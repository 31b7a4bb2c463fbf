"""Shell completion: cached models, layers of a saved report, and names of numbers.

Nothing here imports torch, and nothing raises: the shell would print an error into the line that the
user types.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from normscope.errors import NormscopeError

VARIABLE = "_NORMSCOPE_COMPLETE"
# The variables with the command line: bash sets the first, other shells the second.
_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
# Names that mean nothing special to any shell: it inserts a name unquoted, and Enter runs the line.
_PLAIN = re.compile(r"[\w./:#-]+")
_MAX_REPORT_BYTES = 200_000_000  # reading a larger JSON file takes longer than typing a name


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete MODEL: demo, the Hub ids in the cache, and local model folders."""
    from normscope.models.location import DEMO, cached_ids

    try:
        return [DEMO, *_plain(cached_ids(ctx.params.get("cache_dir"))), *_plain(_folders(incomplete))]
    except (OSError, ValueError):
        return [DEMO]


def layers(incomplete: str) -> list[str]:
    """Complete a layer's name from the saved reports on the line."""
    names = dict.fromkeys(name for word in _words() for name in _layers_of(word))
    return [name for name in _plain(names) if name.startswith(incomplete)]


def numbers(ctx: typer.Context) -> list[tuple[str, str]]:
    """Complete a command or the name of a number of the reports, or with --schema the name of a schema."""
    if ctx.params.get("schema"):
        from normscope.results.json_schema import RESULTS

        return [(name, version) for name, (version, _) in RESULTS.items()]
    from normscope.results.glossary.lookup import COMMANDS, ENTRIES

    titles = {name: entry.title for name, entry in ENTRIES.items()}
    return [*(titles | dict.fromkeys(COMMANDS, "what its tables hold")).items()]


def gates() -> list[str]:
    """Complete the METRIC= of a gate."""
    from normscope.analyses.compare import METRICS

    return [f"{metric}=" for metric in METRICS]


def charts() -> list[str]:
    """Complete a chart's name."""
    try:
        from normscope.render.page.sections import CHARTS
    except ImportError:  # without the extra there are no charts
        return []
    return [name for name, _, _ in CHARTS]


def dtypes() -> list[str]:
    """Complete a dtype."""
    from normscope.models.location import DTYPES

    return list(DTYPES)


def _plain(names: Iterable[str]) -> Iterator[str]:
    """Yield the names without characters that are special to a shell."""
    return (name for name in names if _PLAIN.fullmatch(name))


def _folders(incomplete: str) -> Iterator[str]:
    """Yield the model folders in the folder of an incomplete path."""
    folder = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    for config in sorted(Path(folder or ".").glob("*/config.json")):
        yield f"{folder}{config.parent.name}"


def _words() -> list[str]:
    line = next((os.environ[name] for name in _LINES if os.environ.get(name)), "")
    try:
        return shlex.split(line)
    except ValueError:  # an open quote
        return line.split()


def _layers_of(word: str) -> list[str]:
    """Return the names of the layers in a saved report; none if the word names no report."""
    try:
        path = Path(word).expanduser()
        # Other words may name a corpus or a pipe, so only files that can be a report are opened.
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            return []
        if path.suffix == ".json" and path.stat().st_size > _MAX_REPORT_BYTES:
            return []
        from normscope.results.reading import read_plain

        layers = read_plain(path)["layers"]
        return [layer["name"].removesuffix(f"#{layer.get('call')}") for layer in layers]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, NormscopeError):
        return []
