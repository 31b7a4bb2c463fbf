"""Shortens layer names to a width and keeps them distinct."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

from rich.cells import cell_len

from normscope.escaping import printable

# A longer name is first cut to its two ends, which are this long together.
_MAX_LENGTH = 512


def shorten(names: Sequence[str], width: int, ellipsis: str) -> list[str]:
    """Return `names` printable, at most `width` cells wide, and distinct if they were.

    A last segment that all names share (`LayerNorm`) is dropped first, then leading segments, then
    characters in the middle. Names that would still be equal are numbered.
    """
    shown = [printable(_ends(name, ellipsis)) for name in names]
    if len(set(shown)) < len(set(names)):
        return _number(shown, width, ellipsis)
    if max(map(cell_len, shown), default=0) <= width:
        return shown
    shown = _without_shared_end(shown)
    segments = max(name.count(".") for name in shown) + 1
    # More segments than cells never fit, so either all are tried or as many as there are cells.
    keeps = dict.fromkeys([segments, *range(min(segments, width), 0, -1)])
    tries = [_keep_segments(shown, keep, width, ellipsis) for keep in keeps]
    cuts = [[cut_middle(name, width, ellipsis) for name in names] for names in tries]
    distinct = [pair for pair in zip(tries, cuts, strict=True) if len(set(pair[1])) == len(set(shown))]
    return (
        min(distinct, key=_damage)[1]
        if distinct
        else _number([_last(name, 1) for name in shown], width, ellipsis)
    )


def below(name: str, others: Sequence[str]) -> list[str]:
    """Return `others` without the leading segments that they all share with `name`."""
    paths = [other.split(".") for other in others]
    levels = zip(name.split("."), *paths, strict=False)
    shared = sum(1 for _ in takewhile(lambda segments: len(set(segments)) == 1, levels))
    return [".".join(path[shared:]) for path in paths]


def _without_shared_end(names: list[str]) -> list[str]:
    ends = {name.rpartition(".")[2] for name in names}
    bare = [name.rpartition(".")[0] for name in names]
    return bare if len(ends) == 1 and all(bare) and len(set(bare)) == len(set(names)) else names


def _keep_segments(names: list[str], keep: int, width: int, ellipsis: str) -> list[str]:
    """Keep the last `keep` segments of names that are too wide; drop the same heads from all names."""
    heads = {name[: len(name) - len(_last(name, keep))] for name in names if cell_len(name) > width}
    leads = [_lead(name, heads) for name in names]
    return [ellipsis + name[len(lead) :] if lead else name for name, lead in zip(names, leads, strict=True)]


def _lead(name: str, heads: set[str]) -> str:
    """Return the longest of `heads` that a name begins with; each head ends with a point."""
    end = len(name)
    while (end := name.rfind(".", 0, end)) >= 0:
        if name[: end + 1] in heads:
            return name[: end + 1]
    return ""


def _ends(name: str, ellipsis: str) -> str:
    """Drop the middle of a name that is longer than any screen."""
    half = _MAX_LENGTH // 2
    return name if len(name) <= _MAX_LENGTH else name[:half] + ellipsis + name[-half:]


def _last(name: str, keep: int) -> str:
    return ".".join(name.split(".")[-keep:])


def _damage(pair: tuple[list[str], list[str]]) -> int:
    """Count the characters that names lost in the middle, which reads worse than a lost beginning."""
    return sum(len(before) - len(after) for before, after in zip(*pair, strict=True))


def cut_middle(name: str, width: int, ellipsis: str) -> str:
    """Cut `name` to `width` cells and keep both of its ends."""
    if cell_len(name) <= width:
        return name
    room = max(width - cell_len(ellipsis), 2)
    head = name[: _fitting(name, room // 2)].rstrip()
    rest = name[len(head) :]
    return head + ellipsis + rest[len(rest) - _fitting(reversed(rest), room - cell_len(head)) :]


def _fitting(characters: Iterable[str], room: int) -> int:
    """Count the first characters that fit into `room` cells."""
    count = 0
    for character in characters:
        room -= cell_len(character)
        if room < 0:
            break
        count += 1
    return count


def _number(names: list[str], width: int, ellipsis: str) -> list[str]:
    marks = [f"#{i} " for i in range(len(names))]
    return [
        mark + cut_middle(name, max(width - len(mark), 3), ellipsis)
        for mark, name in zip(marks, names, strict=True)
    ]
