"""BibTeX of the papers that the sources of entries name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from normscope.results.glossary.entry import Entry

# A source names a paper as AUTHORS YEAR (VENUE), TITLE, WHERE, REMARK; "; " parts several sources.
_PAPER = re.compile(r"(?P<authors>[A-Z][^\d:;]*?) (?P<year>\d{4})(?: \((?P<venue>[^)]+)\))?, (?P<rest>.+)")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


@dataclass(frozen=True)
class Paper:
    """A paper as a source names it; empty where it names no such fact. `arxiv` are ids, its own first."""

    authors: tuple[str, ...]
    year: str
    title: str
    published: str
    arxiv: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key for \\cite: first author, year, first word of the title."""
        word = re.sub(r"[^A-Za-z0-9]", "", (self.title.split() or [""])[0])
        return f"{self.authors[0]}{self.year}{word}".lower()

    def bibtex(self) -> str:
        """Return its BibTeX entry."""
        fields = {
            "author": " and ".join(self.authors),
            "title": f"{{{self.title}}}" if self.title else "",
            "year": self.year,
            "howpublished": self.published,
            "eprint": self.arxiv[0] if self.arxiv else "",
            "archiveprefix": "arXiv" if self.arxiv else "",
            "url": f"https://arxiv.org/abs/{self.arxiv[0]}" if self.arxiv else "",
            "note": "See also " + ", ".join(f"arXiv {i}" for i in self.arxiv[1:]) if self.arxiv[1:] else "",
        }
        lines = [f"  {name} = {{{value}}},\n" for name, value in fields.items() if value]
        return f"@misc{{{self.key},\n{''.join(lines)}}}\n"


def papers(entries: Iterable[Entry]) -> list[Paper]:
    """Return the papers that the sources of entries name, each once, by their keys."""
    matches = (_PAPER.fullmatch(part) for entry in entries for part in entry.source.split("; "))
    return sorted({_paper(match) for match in matches if match}, key=lambda paper: paper.key)


def bibtex(entries: Iterable[Entry]) -> str:
    """Return the BibTeX entries of these papers, an empty line between them."""
    return "\n".join(paper.bibtex() for paper in papers(entries))


def _paper(match: "re.Match[str]") -> Paper:
    names = match["authors"].replace(" et al.", ", others").replace(" & ", ", ").split(", ")
    first, *others = match["rest"].split(", ")
    title = "" if first.startswith("arXiv ") else first
    # A remark, such as "section 4.1", begins with a small letter.
    places = [part for part in others if part[0].isupper()]
    published = ", ".join([match["venue"], *places] if match["venue"] else places)
    return Paper(tuple(names), match["year"], title, published, tuple(_ARXIV.findall(match["rest"])))
