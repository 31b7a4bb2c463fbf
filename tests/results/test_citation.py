"""What a paper takes from the glossary: BibTeX of its sources, and definitions in LaTeX that cite them."""

import re

import pytest

from normscope.render.latex import formula_latex, render_latex
from normscope.results.glossary.citation import bibtex, papers
from normscope.results.glossary.lookup import ENTRIES
from tests.support.command import ended, error_of

EVERY = tuple(ENTRIES.values())


def test_every_arxiv_id_and_year_of_the_sources_is_in_the_bibliography() -> None:
    written = bibtex(EVERY)
    for entry in EVERY:
        for number in re.findall(r"\d{4}\.\d{5}", entry.source):
            assert number in written
        years = re.findall(r" (1[89]\d\d|20\d\d)(?=[, ])", entry.source)
        assert sorted(paper.year for paper in papers([entry])) == sorted(years)
    keys = re.findall(r"^@misc\{(.*),$", written, re.MULTILINE)
    assert keys == sorted(set(keys))


def test_a_source_becomes_fields() -> None:
    (paper,) = papers([ENTRIES["token.mean"]])
    assert (paper.authors, paper.year, paper.title) == (
        ("Ba", "Kiros", "Hinton"),
        "2016",
        "Layer Normalization",
    )
    assert (paper.key, paper.arxiv) == ("ba2016layer", ("1607.06450",))
    (tid,) = papers([ENTRIES["tid.mean"]])
    assert (tid.authors, tid.published) == (("Wang", "others"), "NeurIPS")
    assert tid.bibtex().splitlines() == [
        "@misc{wang2022training,",
        "  author = {Wang and others},",
        "  title = {{Training Inference Discrepancy}},",
        "  year = {2022},",
        "  howpublished = {NeurIPS},",
        "  eprint = {2210.05153},",
        "  archiveprefix = {arXiv},",
        "  url = {https://arxiv.org/abs/2210.05153},",
        "}",
    ]
    assert papers([ENTRIES["own_error"]]) == []


@pytest.mark.parametrize(
    ("formula", "latex"),
    [
        ("sum_V,d (y - a[d])^2", r"\sum_{V,d}\ (y\ -\ a_{d})^2"),
        ("mean_y[d] / sqrt((a + b) c) >= 1", r"\text{mean}_{y,d}\ /\ \sqrt{(a\ +\ b)\ c}\ \ge \ 1"),
        ("||sd_B||_2 +- h'", r"\lVert \text{sd}_{B}\rVert _2\ \pm \ h'"),
        ("token_variance of --samples", r"\text{token\_variance}\ \text{of}\ \text{-{}-samples}"),
        ("one-way x[n,0], ... - 1", r"\text{one-way}\ x_{n,0},\ \ldots \ -\ 1"),
    ],
)
def test_formulas_become_mathematics(formula: str, latex: str) -> None:
    assert formula_latex(formula) == latex


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_well_formed(name: str) -> None:
    """Braces and norms are paired, and nothing has two subscripts or two powers."""
    latex = render_latex([ENTRIES[name]])
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert latex.count("\\lVert") == latex.count("\\rVert")
    assert not re.search(r"_\{[^{}]*\}_|\^(\w|\{[^{}]*\})\^|_[^{\s\\]_", latex)
    math = latex.split("\\begin{gather*}")[1]
    assert not re.search(r"(?<!\\)[%#$]", math)
    assert set(re.findall(r"\\cite\{(.*?)\}", latex)) == {
        ",".join(paper.key for paper in papers([ENTRIES[name]]))
    } - {""}


def test_the_command_prints_them() -> None:
    assert ended(["explain", "--bibtex"]).stdout == bibtex(EVERY)
    below = ended(["explain", "tid", "--bibtex"]).stdout
    assert below.startswith("@misc{wang2022training,")
    assert ended(["explain", "own_error", "--format", "latex"]).stdout == render_latex([ENTRIES["own_error"]])
    assert "\\cite{ba2016layer}" in ended(["explain", "token", "--format", "latex"]).stdout
    assert "--bibtex came with another format" in error_of(["explain", "--bibtex", "--json"])
    assert "the format latex; expected JSON" in error_of(["explain", "--schema", "--format", "latex"])
