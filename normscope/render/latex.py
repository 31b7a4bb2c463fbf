"""Glossary entries as LaTeX: a definition, its formula and its citations, for a paper that loads amsmath."""

import re
from collections.abc import Iterable, Iterator

from normscope.results.glossary.citation import papers
from normscope.results.glossary.entry import Entry

_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"},
}
_SYMBOLS = {
    **{"<=": "\\le", ">=": "\\ge", "!=": "\\ne", "+-": "\\pm", "*": "\\cdot"},
    **dict.fromkeys(("..", "..."), "\\ldots"),
    **{"|": "|", "%": "\\%", "#": "\\#", "&": "\\&", "{": "\\{", "}": "\\}", "_": "\\_", "~": "\\sim"},
}
_NAMES = {
    **{"sum": "\\sum", "log": "\\log", "min": "\\min", "max": "\\max", "mu": "\\mu", "eps": "\\varepsilon"},
    **{"eta2": "\\eta^2", "epsilon2": "\\varepsilon^2", "r2": "R^2"},
}
# An option or a word with a hyphen, a name with its subscript, a number, signs, or any one character.
_TOKEN = re.compile(
    r"(?P<option>--[a-z-]+|[A-Za-z]+-[a-z]+)|(?P<name>[A-Za-z]\w*?(?:_(?P<below>[A-Za-z0-9](?:,[a-z0-9])*))?(?!\w)'?)"
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<norm>\|\|)|(?P<index>\[[A-Za-z](?:,[A-Za-z0-9])*\])|(?P<sign>[<>!]=|\+-|\.\.+|.)"
)


def render_latex(entries: Iterable[Entry]) -> str:
    """Return entries one after the other; a citation's key is that of `explain --bibtex`."""
    return "\n".join("".join(f"{line}\n" for line in _entry(entry)) for entry in entries)


def formula_latex(formula: str) -> str:
    """Return one line of a formula as LaTeX mathematics; words stay text."""
    math = "".join(_tokens(formula))
    # An index of a name that has a subscript joins it: LaTeX takes one subscript.
    return _groups(re.sub(r"_\{([^}]*)\}_\{([^}]*)\}", r"_{\1,\2}", math))


def _entry(entry: Entry) -> Iterator[str]:
    cited = ",".join(paper.key for paper in papers([entry]))
    source = f"\\cite{{{cited}}}" if cited else f"({_text(entry.source)})"
    yield f"\\paragraph{{{_text(entry.title)} (\\texttt{{{_text(entry.name)}}})}}"
    yield f"{_text(entry.definition)} {source}"
    yield "\\begin{gather*}"
    yield " \\\\\n".join(formula_latex(line) for line in entry.formula.split("; "))
    yield "\\end{gather*}"


def _text(text: str) -> str:
    # LaTeX makes a dash of two hyphens, which begin an option.
    return "".join(_ESCAPES.get(character, character) for character in text).replace("--", "-{}-")


def _tokens(formula: str) -> Iterator[str]:
    opens = True
    for token in _TOKEN.finditer(formula):
        kind, text = token.lastgroup, token[0]
        if token["norm"]:
            yield "\\lVert " if opens else "\\rVert "
            opens = not opens
        elif token["option"]:
            yield f"\\text{{{_text(text)}}}"
        elif token["name"]:
            yield _name(text, token["below"])
        elif kind == "index":
            yield f"_{{{text[1:-1]}}}"
        elif text in " ^_":  # A space that mathematics keeps; a power, or the order of a norm.
            yield "\\ " if text == " " else text
        else:
            symbol = _SYMBOLS.get(text, text)
            yield f"{symbol} " if symbol.startswith("\\") else symbol


def _name(text: str, below: str | None) -> str:
    """Return a name: a letter or a function as mathematics, other words as text, with its subscript."""
    prime = "'" if text.endswith("'") else ""
    base = text.removesuffix("'")
    if below is not None:
        base = base.removesuffix(f"_{below}")
    symbol = _NAMES.get(base) or (base if len(base) == 1 else f"\\text{{{_text(base)}}}")
    return f"{symbol}{prime}" + (f"_{{{below}}}" if below is not None else "")


def _groups(math: str) -> str:
    """Put the brackets after a root or a power into braces."""
    for start, opening in (("\\text{sqrt}(", "\\sqrt{"), ("^(", "^{")):
        while (at := math.find(start)) >= 0:
            inner = at + len(start)
            depth, end = 1, inner
            while end < len(math) and depth:
                depth += {"(": 1, ")": -1}.get(math[end], 0)
                end += 1
            math = f"{math[:at]}{opening}{math[inner : end - 1]}}}{math[end:]}"
    return math
