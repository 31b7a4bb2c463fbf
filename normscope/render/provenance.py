"""Facts about where a result is from, for a line of text."""

from normscope.escaping import counted, printable
from normscope.render.short_names import cut_middle
from normscope.results.provenance import Provenance

# As many digits of a digest as a reader compares.
_DIGITS = 16
# Characters of a command that are shown: it may name hundreds of files.
_COMMAND = 300


def provenance_facts(provenance: Provenance) -> list[str]:
    """Return the known facts, the command last; long digests are cut."""
    versions = {name: version for name, version in vars(provenance.versions).items() if version}
    texts = None if provenance.texts_read is None else f"{counted(provenance.texts_read, 'text')} read"
    numbered = {
        "commit": provenance.commit,
        "weights (sample) SHA-256": _cut(provenance.weights_sample),
        "texts SHA-256": _cut(provenance.texts_sha256),
        "seed": provenance.seed,
    }
    facts = [provenance.date, *(f"{name} {version}" for name, version in versions.items()), texts]
    facts += [f"{name} {value}" for name, value in numbered.items() if value is not None]
    command = provenance.command and cut_middle(printable(provenance.command), _COMMAND, "...")
    return [*(printable(fact) for fact in facts if fact), *([command] if command else [])]


def _cut(digest: str | None) -> str | None:
    return None if digest is None else digest[:_DIGITS]
