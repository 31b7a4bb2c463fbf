"""Wording of tables by modality: texts, images or sounds."""

import re
from dataclasses import replace

from normscope.render.grid import Grid

# One of them; several kinds side by side are samples.
_NOUNS = {"image": "image", "audio": "sound", "several": "sample"}


def worded(grid: Grid, medium: str) -> Grid:
    """Return a table whose heading, titles and notes say what was fed; its cells are data, and stay."""
    if medium not in _NOUNS:
        return grid
    columns = [replace(c, title=said(c.title, medium), about=said(c.about, medium)) for c in grid.columns]
    notes = [said(note, medium) for note in grid.notes]
    return replace(grid, heading=said(grid.heading, medium), columns=columns, notes=notes)


def said(words: str, medium: str) -> str:
    """Return our own words with those for text replaced."""
    noun = _NOUNS.get(medium)
    return words if noun is None else re.sub(r"\btext(s?)\b", rf"{noun}\1", words)
