"""The article's claims with a model's evidence, one paragraph each."""

import math
import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from normscope.escaping import counted, grouped, printable
from normscope.render.grid import Column, Grid
from normscope.render.markdown import escape, join_facts, markdown_table
from normscope.render.numbers import UNKNOWN, with_interval
from normscope.render.pooled import pooled_grid
from normscope.render.terminal import MIN_WIDTH, Screen, draw_grid, flow, render_parts
from normscope.results.why import Evidence, Finding, WhyReport

_STYLES = {"holds": "bold green", "fails": "bold red"}


def render_why(report: WhyReport, *, verbose: bool = False, screen: Screen = Screen()) -> str:
    """Return the claims with their verdicts and the numbers that decide, as text with line ends.

    With `verbose`, all evidence, the nulls, the rules and the commands that show more are there too.
    Nothing in the report is taken for markup, and no escape codes are in the text but the colours
    that `screen` asks for.
    """
    return render_parts(_parts(report, screen, verbose=verbose), screen)


def render_why_markdown(report: WhyReport) -> str:
    """Return all that `render_why` can show as GitHub-flavoured Markdown."""
    parts = [f"## {join_facts(about(report))}", join_facts(workload(report))]
    for finding in report.claims:
        parts.append("### " + escape(f"{finding.id} {finding.verdict.upper()}: {finding.claim}"))
        about_it = [("Source", finding.source), ("Quantity", finding.quantity), ("Null", finding.null)]
        lines = [f"{_mark(e, finding)}{number(e)}  {_words(e, finding)}" for e in finding.evidence]
        said = [f"{word}: {text}" for word, text in (*about_it, ("Rule", finding.rule)) if text]
        parts.append("\n".join(f"- {escape(line)}" for line in (*lines, *said)))
        parts.append(f"More: {escape(finding.more)}")
    parts += markdown_table(pooled_grid(report.pooled))
    return "\n\n".join(parts) + "\n"


def _parts(report: WhyReport, screen: Screen, *, verbose: bool) -> Iterator[RenderableType]:
    yield flow(about(report), screen, "bold")
    yield flow(workload(report), screen, "")
    width = max((len(printable(finding.verdict)) for finding in report.claims), default=0)
    for finding in report.claims:
        yield Text()
        verdict = Text(
            printable(finding.verdict.upper()).ljust(width + 2), _STYLES.get(finding.verdict, "bold")
        )
        start = Text(f"{printable(finding.id):>2}  ", "bold") + verdict
        yield _hanging(start, Text(printable(finding.claim), "bold"), screen)
        for beginning, words in _all_lines(finding) if verbose else _deciding_lines(finding):
            yield _hanging(Text(f"    {beginning}"), words, screen)
        if verbose:
            command = _broken_command(f"    more: {printable(finding.more)}", "          ", screen.width)
            yield Text(command, "dim")
    if not verbose:
        more = ["null: the number if there were no effect", "all numbers: --verbose", "normscope explain why"]
        yield from (Text(), flow(more, screen, "dim"))
    yield from draw_grid(pooled_grid(report.pooled), screen)


# A number, and the words after it.
_Lines = Iterator[tuple[str, Text]]


def _deciding_lines(finding: Finding) -> _Lines:
    """Yield the number that decides and what it is held against, or why there is none."""
    decides = deciding(finding)
    if decides is None:
        _, _, reason = finding.rule.partition("; ")
        yield "", Text(printable(reason or f"not measured here: {finding.quantity}"))
        return
    yield f"{number(decides)}  ", Text(printable(decides.name))
    null = "" if math.isnan(decides.null) else f"null {decides.null:g}; "
    rule = finding.rule.partition(":")[0].partition(";")[0]
    yield "", Text(f"{null}{printable(rule)}{layer_counts(decides, finding, '; ')}", "dim")


def _all_lines(finding: Finding) -> _Lines:
    """Yield all evidence in columns, then the null and the rule."""
    width = max((len(number(each)) for each in finding.evidence), default=0)
    for evidence in finding.evidence:
        start = f"{_mark(evidence, finding)}{number(evidence).ljust(width)}  "
        yield start, Text(_words(evidence, finding))
    for word, said in (("null", finding.null), ("rule", finding.rule)):
        if said:  # Results of earlier versions have no null.
            yield f"{word}: ", Text(printable(said), "dim")


def _hanging(start: Text, words: Text, screen: Screen) -> Text:
    """Break words into lines that all begin where the first begins, after `start`."""
    room = max(screen.width - start.cell_len, 1)
    first, *rest = words.wrap(_PLAIN, room) or [Text()]
    indent = " " * start.cell_len
    return Text("\n").join([start + first, *(Text(indent) + line for line in rest)])


_PLAIN = Console(width=MIN_WIDTH)
# A word of a command; an option stays on one line with its value.
_WORD = re.compile(r"""\s*(?:--[\w-]+\s+(?=[^\s-]))?(?:'[^']*'|"[^"]*"|\S)+""")


def _broken_command(line: str, indent: str, width: int) -> str:
    """Break a command between words, with backslashes, so that a shell reads its lines as one."""
    lines = [""]
    for word in _WORD.findall(line):
        if lines[-1] and cell_len(lines[-1] + word + " \\") > width:
            lines[-1] += " \\"
            lines.append(indent + word.strip())
        else:
            lines[-1] += word
    return "\n".join(lines)


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


def _mark(evidence: Evidence, finding: Finding) -> str:
    return "> " if evidence.name == finding.decided_by else "  "


def _words(evidence: Evidence, finding: Finding) -> str:
    null = "" if math.isnan(evidence.null) else f" (null {evidence.null:g})"
    sides = layer_counts(evidence, finding, ": ") if evidence.name == finding.decided_by else ""
    return f"{printable(evidence.name)}{null}{sides}"


def layer_counts(decides: Evidence, finding: Finding, before: str = "") -> str:
    """Say how many layers, or pairs of them, lie on which side of the threshold, where there are several."""
    if len(decides.layers) < 2:
        return ""
    of = f"{len(decides.layers)} {'pairs of layers' if ' / ' in decides.layers[0].layer else 'layers'}"
    at = f"{finding.threshold:g}"
    return f"{before}{finding.layers_above} of {of} over {at}, {finding.layers_below} under"


def number(evidence: Evidence) -> str:
    """Write the number of one piece of evidence, with its interval."""
    return with_interval(evidence.number.value, evidence.number.low, evidence.number.high)


def deciding(finding: Finding) -> Evidence | None:
    """Return the evidence that decides a claim, None if no number does."""
    return next((each for each in finding.evidence if each.name == finding.decided_by), None)


def verdicts(report: WhyReport) -> Grid:
    """Return the claims as a table: each with its verdict and the number that decides it."""
    evidence = [deciding(finding) for finding in report.claims]
    columns = [
        Column("claim", "", [f"{finding.id} {printable(finding.claim)}" for finding in report.claims]),
        Column("verdict", "", [printable(finding.verdict) for finding in report.claims]),
        Column("decided by", "", [printable(e.name) if e else "" for e in evidence]),
        Column("number", "95%", [number(e) if e else UNKNOWN for e in evidence]),
    ]
    return Grid("The article's claims", columns)
