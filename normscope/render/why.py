"""The article's claims with a model's evidence, one paragraph each."""

import math
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.text import Text

from normscope.escaping import counted, grouped, printable
from normscope.render.grid import Column, Grid
from normscope.render.markdown import escape, join_facts, markdown_table
from normscope.render.numbers import UNKNOWN, short, with_interval
from normscope.render.pooled import pooled_grid
from normscope.render.terminal import MIN_WIDTH, Screen, draw_grid, flow, render_parts
from normscope.results.why import Evidence, Finding, Interval, WhyReport

_STYLES = {"holds": "bold green", "fails": "bold red"}


def render_why(report: WhyReport, *, screen: Screen = Screen()) -> str:
    """Return the claims with their evidence and verdicts, as text with line ends.

    Nothing in the report is taken for markup, and no escape codes are in the text but the colours
    that `screen` asks for.
    """
    return render_parts(_parts(report, screen), screen)


def render_why_markdown(report: WhyReport) -> str:
    """Return what `render_why` shows as GitHub-flavoured Markdown."""
    parts = [f"## {join_facts(about(report))}", join_facts(workload(report))]
    for finding in report.claims:
        parts.append(f"### {escape(_heading(finding))}")
        about_it = [("Source", finding.source), ("Quantity", finding.quantity), ("Null", finding.null)]
        said = [f"{word}: {text}" for word, text in (*about_it, ("Rule", finding.rule)) if text]
        parts.append("\n".join(f"- {escape(line)}" for line in (*_evidence(finding), *said)))
        parts.append(f"More: `{printable(finding.more)}`")
    parts += markdown_table(pooled_grid(report.pooled))
    return "\n\n".join(parts) + "\n"


def _parts(report: WhyReport, screen: Screen) -> Iterator[RenderableType]:
    yield flow(about(report), screen, "bold")
    yield flow(workload(report), screen, "")
    for finding in report.claims:
        yield Text()
        yield _hanging(_claim(finding), "    ", screen)
        for line in _evidence(finding):
            yield _hanging(Text(f"    {line}"), "      ", screen)
        for word, said in (("null", finding.null), ("rule", finding.rule), ("more", finding.more)):
            if not said:  # Results of earlier versions have no null.
                continue
            yield _hanging(Text(f"    {word}: {printable(said)}", "dim"), "      ", screen)
    yield from draw_grid(pooled_grid(report.pooled), screen)


def _hanging(text: Text, indent: str, screen: Screen) -> Text:
    """Break a line between words, what follows indented."""
    first, *rest = text.wrap(_PLAIN, screen.width - len(indent))
    lines = [first, *(Text(indent).append_text(line) for line in rest)]
    return Text("\n").join(lines)


_PLAIN = Console(width=MIN_WIDTH)


def _claim(finding: Finding) -> Text:
    verdict = Text(finding.verdict.upper(), _STYLES.get(finding.verdict, "bold"))
    return Text(f"{finding.id:>2}  ", "bold") + verdict + Text(f"  {printable(finding.claim)}", "bold")


def _heading(finding: Finding) -> str:
    return f"{finding.id} {finding.verdict.upper()}: {finding.claim}"


def about(report: WhyReport) -> list[str]:
    """Say which model was asked."""
    return [printable(part) for part in (report.model.id, report.model.architecture)]


def workload(report: WhyReport) -> list[str]:
    """Say what it was asked about, and how sure the numbers are."""
    run = report.run
    kept = f", {grouped(report.kept_texts)} of them kept" if report.kept_texts < run.texts else ""
    return [
        counted(run.texts, "text") + kept,
        counted(run.tokens, "token"),
        "95% intervals",
        f"{run.seconds:.1f} s",
    ]


def _evidence(finding: Finding) -> list[str]:
    return [_line(evidence, finding) for evidence in finding.evidence]


def _line(evidence: Evidence, finding: Finding) -> str:
    decides = evidence.name == finding.decided_by
    null = "" if math.isnan(evidence.null) else f" (null {short(evidence.null)})"
    layers = ""
    if decides and len(evidence.layers) > 1:
        at, of = short(finding.threshold), len(evidence.layers)
        layers = f": {finding.layers_above} of {of} layers over {at}, {finding.layers_below} under"
    mark = "> " if decides else "  "
    return f"{mark}{_number(evidence.number)}  {printable(evidence.name)}{null}{layers}"


def _number(number: Interval) -> str:
    return with_interval(number.value, number.low, number.high)


def verdicts(report: WhyReport) -> Grid:
    """Return the claims as a table: each with its verdict and the number that decides it."""
    deciding = [next((e for e in f.evidence if e.name == f.decided_by), None) for f in report.claims]
    columns = [
        Column("claim", "", [f"{finding.id} {printable(finding.claim)}" for finding in report.claims]),
        Column("verdict", "", [printable(finding.verdict) for finding in report.claims]),
        Column("decided by", "", [printable(e.name) if e else "" for e in deciding]),
        Column("number", "95%", [_number(e.number) if e else UNKNOWN for e in deciding]),
    ]
    return Grid("The article's claims", columns)
