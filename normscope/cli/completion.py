"""Shell completion: cached models, layers of a saved report, and names of numbers.

Nothing here imports torch, and nothing raises: a completion that fails would be printed into the
line that is being typed.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from normscope.errors import NormscopeError

VARIABLE = "_NORMSCOPE_COMPLETE"
# Where the shells leave the line: bash the one, the others the other.
LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
# What every shell takes as it stands: it puts a name on the line as it is, and what it means is run at Enter.
_PLAIN = re.compile(r"[\w./:#-]+")
_LARGEST = 200_000_000  # a JSON file beyond this takes longer to read than to type a name


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete MODEL: demo, the Hub ids that are in the cache, and the model folders there are."""
    from normscope.models.location import DEMO, cached_ids

    try:
        return [DEMO, *_plain(cached_ids(ctx.params.get("cache_dir"))), *_plain(_folders(incomplete))]
    except (OSError, ValueError):
        return [DEMO]


def layers(incomplete: str) -> list[str]:
    """Complete a layer's name from the saved reports that are on the line."""
    names = dict.fromkeys(name for word in _words() for name in _layers_of(word))
    return [name for name in _plain(names) if name.startswith(incomplete)]


def numbers(ctx: typer.Context) -> list[tuple[str, str]]:
    """Complete the name of a number of the reports, or with --schema what a schema is of."""
    if ctx.params.get("schema"):
        from normscope.results.json_schema import RESULTS

        return [(name, version) for name, (version, _) in RESULTS.items()]
    from normscope.results.glossary.lookup import ENTRIES

    return [(name, entry.title) for name, entry in ENTRIES.items()]


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
    """Yield the names that mean nothing else to a shell, nor to its patterns."""
    return (name for name in names if _PLAIN.fullmatch(name))


def _folders(incomplete: str) -> Iterator[str]:
    """Yield the model folders that stand where a path is being typed."""
    begun = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    for config in sorted(Path(begun or ".").glob("*/config.json")):
        yield f"{begun}{config.parent.name}"


def _words() -> list[str]:
    line = next((os.environ[name] for name in LINES if os.environ.get(name)), "")
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed yet
        return line.split()


def _layers_of(word: str) -> list[str]:
    """Return the names of the layers in a saved report, none where it is no such thing."""
    try:
        path = Path(word).expanduser()
        # Anything else on the line may be a corpus, or a pipe: only what can be a report is opened.
        if path.suffix not in (".json", ".safetensors") or not path.is_file():
            return []
        if path.suffix == ".json" and path.stat().st_size > _LARGEST:
            return []
        from normscope.results.reading import read_plain

        found = read_plain(path)["layers"]
        return [layer["name"].removesuffix(f"#{layer.get('call')}") for layer in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, NormscopeError):
        return []
