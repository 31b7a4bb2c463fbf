"""The article's claims on a page: each with its verdict and the number that decides, and the rest folded."""

from normscope.render.html_markup import Markup, join, tag
from normscope.render.page import captions
from normscope.render.why import deciding, layer_counts, number
from normscope.results.why import Evidence, Finding, WhyReport


def claims_section(report: WhyReport) -> Markup:
    """Return the claims of a report, one line each."""
    about = f"Why NLP uses LayerNorm and not BatchNorm. {captions.claims(report)} Numbers have 95% intervals."
    claims = tag("div", *map(_claim, report.claims), class_="claims")
    return join(tag("h3", "Which of the article's claims hold?"), tag("p", about, class_="about"), claims)


def _claim(finding: Finding) -> Markup:
    decides = deciding(finding)
    # Since layers decide, the number comes with how many of them lie on which side.
    summed_up = f"{number(decides)}{layer_counts(decides, finding, '; ')}" if decides else None
    kind = f"claim {finding.verdict}" if finding.verdict in ("holds", "fails") else "claim"
    summary = tag(
        "summary",
        tag("span", finding.verdict, class_="verdict"),
        tag("span", f"{finding.id} {finding.claim}", class_="wording"),
        tag("span", summed_up, class_="decides") if summed_up else None,
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
    line = f"{number(evidence)}: {evidence.name}"
    return tag("strong", line) if evidence.name == finding.decided_by else join(line)
