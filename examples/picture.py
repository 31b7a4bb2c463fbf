"""Draw the first screen of `normscope inspect`, a real run, as a picture (SVG) for README.md.

Run: python examples/picture.py [PATH]   (ten seconds)
"""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import normscope
from _data import sentences
from normscope.render.inspect import render_report
from normscope.render.terminal import Screen

COMMAND = "normscope inspect demo -f corpus.txt --limit 400 --max-length 64"
WIDTH = 80


def draw(screen: str) -> str:
    """Return a terminal's text, with its colours, as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi(screen.rstrip()))
    svg = console.export_svg(title=COMMAND, theme=MONOKAI, unique_id="screen")
    # Web fonts are left out, because a picture in a page must load nothing.
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def main() -> None:
    """Inspect `demo` on 400 sentences of Python's documentation and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).with_name("first-screen.svg"))
    path = parser.parse_args().path
    report = normscope.inspect("demo", sentences()[:400], batching=normscope.Batching(max_length=64))
    path.write_text(draw(render_report(report, screen=Screen(WIDTH, colour=True))), encoding="utf-8")


if __name__ == "__main__":
    main()
