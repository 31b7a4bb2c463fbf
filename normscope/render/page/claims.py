"""The article's claims on a page: each with its verdict and the number that decides, and the rest folded."""

from normscope.render.html_markup import Markup, join, tag
from normscope.render.numbers import with_interval
from normscope.render.page import captions
from normscope.render.why import layer_counts
from normscope.results.why import Evidence, Finding, WhyReport


def claims_section(report: WhyReport) -> Markup:
    """Return the claims of a report, one line each."""
    about = f"Why NLP uses LayerNorm and not BatchNorm. {captions.claims(report)} Numbers have 95% intervals."
    claims = tag("div", *map(_claim, report.claims), class_="claims")
    return join(tag("h3", "Which of the article's claims hold?"), tag("p", about, class_="about"), claims)


def _claim(finding: Finding) -> Markup:
    decides = [each for each in finding.evidence if each.name == finding.decided_by]
    kind = f"claim {finding.verdict}" if finding.verdict in ("holds", "fails") else "claim"
    summary = tag(
        "summary",
        tag("span", finding.verdict, class_="verdict"),
        tag("span", f"{finding.id} {finding.claim}", class_="wording"),
        *(tag("span", _decisive(each, finding), class_="decides") for each in decides[:1]),
    )
    null = tag("p", f"Null: {finding.null}.", class_="about") if finding.null else None
    return tag(
        "details",
        summary,
        tag("ul", *(tag("li", _evidence(each, finding)) for each in finding.evidence)),
        null,
        tag("p", f"Rule: {finding.rule}.", class_="about"),
        tag("p", "More: ", tag("code", finding.more), class_="about"),
        class_=kind,
    )


def _evidence(evidence: Evidence, finding: Finding) -> Markup:
    line = f"{_number(evidence)}: {evidence.name}"
    return tag("strong", line) if evidence.name == finding.decided_by else join(line)


def _decisive(evidence: Evidence, finding: Finding) -> str:
    """Return the number that decides and, since layers decide, how many of them lie on which side."""
    return f"{_number(evidence)}{layer_counts(evidence, finding, '; ')}"


def _number(evidence: Evidence) -> str:
    return with_interval(evidence.number.value, evidence.number.low, evidence.number.high)
