"""The plan of a run as text, one line for each fact."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from normscope.escaping import counted, grouped, printable
from normscope.render.numbers import short
from normscope.results.plan import Corpus, RunPlan, Tables


def render_plan(plan: RunPlan) -> str:
    """Return the plan as lines of text, each a name and its value."""
    lines = list(_lines(plan))
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {printable(text)}\n" for name, text in lines)


def _lines(plan: RunPlan) -> Iterator[tuple[str, str]]:
    model, batch = plan.model, plan.batch
    yield "model", f"{model.id}, {model.architecture}, {model.dtype}, {model.device}"
    yield "layers", counted(plan.normalization_layers, "normalization layer")
    yield "table memory", describe_tables(plan.tables)
    yield "corpus", _corpus(plan.corpus)
    yield "work", f"{short(plan.flops / 1e6)} million floating-point operations a token"
    rate = batch.tokens / batch.seconds
    timed = f"{counted(batch.texts, 'text')}, {counted(batch.tokens, 'token')} in {short(batch.seconds)} s"
    yield "timed batch", f"{timed}: {short(rate)} tokens a second"
    yield "expected time", "unknown" if plan.corpus.tokens is None else duration(plan.expected_seconds)


def describe_tables(tables: Tables) -> str:
    """Write how large the tables over positions are, and for how many positions."""
    size = f"{memory(tables.bytes)} at most"
    if tables.exact is None:
        return f"{size}, for {grouped(tables.positions or 0)} positions"
    longest = "texts of any length" if tables.positions is None else f"{grouped(tables.positions)} positions"
    alone = f"positions 0 to {grouped(tables.exact - 1)} alone, later ones in bins"
    return f"{size}, for {longest} in {grouped(tables.rows)} rows: {alone}"


def _corpus(corpus: Corpus) -> str:
    if corpus.texts is None or corpus.tokens is None:
        return "of unknown size"
    how = "counted" if corpus.counted else "estimated from a sample"
    return f"{counted(corpus.texts, 'text')}, {counted(corpus.tokens, 'token')}, {how}"


def memory(size: float) -> str:
    """Write an amount of memory in the largest unit of which it is at least one."""
    return _in_units(
        size, (("bytes", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40))
    )


def duration(seconds: float) -> str:
    """Write a time in the largest unit of which it is at least one."""
    return _in_units(seconds, (("s", 1), ("minutes", 60), ("hours", 3600), ("days", 86400)))


def _in_units(amount: float, units: Sequence[tuple[str, int]]) -> str:
    """Write an amount in the largest unit of which it is at least one after rounding: never 60.0 s."""
    for (name, size), (_, next_size) in pairwise(units):
        written = short(amount / size)
        if float(written) * size < next_size:
            return f"{written} {name}"
        amount = max(amount, next_size)
    name, size = units[-1]
    return f"{short(amount / size)} {name}"
