"""Layer names cut to a width: still told apart, and cut where the least is lost."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from normscope.printable import printable


def shorten(names: Sequence[str], width: int, ellipsis: str) -> list[str]:
    """Return `names` printable and at most `width` cells wide, no two alike if they were not.

    First a last segment that all share goes (`LayerNorm`), then leading segments, then
    characters in the middle; what would still be alike is numbered.
    """
    shown = [printable(name) for name in names]
    if max(map(cell_len, shown), default=0) <= width:
        return shown
    shown = _without_shared_end(shown)
    most = max(name.count(".") for name in shown) + 1
    tries = [_keep_segments(shown, keep, width, ellipsis) for keep in range(most, 0, -1)]
    cuts = [[cut_middle(name, width, ellipsis) for name in names] for names in tries]
    distinct = [pair for pair in zip(tries, cuts, strict=True) if len(set(pair[1])) == len(set(shown))]
    return (
        min(distinct, key=_damage)[1]
        if distinct
        else _number([_last(name, 1) for name in shown], width, ellipsis)
    )


def _without_shared_end(names: list[str]) -> list[str]:
    ends = {name.rpartition(".")[2] for name in names}
    bare = [name.rpartition(".")[0] for name in names]
    return bare if len(ends) == 1 and all(bare) and len(set(bare)) == len(set(names)) else names


def _keep_segments(names: list[str], keep: int, width: int, ellipsis: str) -> list[str]:
    """Leave the last `keep` segments of names too wide; what is dropped from one goes from all."""
    heads = {name[: len(name) - len(_last(name, keep))] for name in names if cell_len(name) > width}
    leads = [max((h for h in heads if name.startswith(h)), key=len, default="") for name in names]
    return [ellipsis + name[len(lead) :] if lead else name for name, lead in zip(names, leads, strict=True)]


def _last(name: str, keep: int) -> str:
    return ".".join(name.split(".")[-keep:])


def _damage(pair: tuple[list[str], list[str]]) -> int:
    """How many characters names lost in the middle, which reads worse than a lost beginning."""
    return sum(len(before) - len(after) for before, after in zip(*pair, strict=True))


def cut_middle(name: str, width: int, ellipsis: str) -> str:
    """Cut `name` to `width` cells, keeping both of its ends."""
    if cell_len(name) <= width:
        return name
    room = max(width - cell_len(ellipsis), 2)
    head = set_cell_size(name, room // 2).rstrip()
    tail = name[len(head) :]
    while cell_len(tail) > room - cell_len(head):
        tail = tail[1:]
    return head + ellipsis + tail


def _number(names: list[str], width: int, ellipsis: str) -> list[str]:
    marks = [f"#{i} " for i in range(len(names))]
    return [
        mark + cut_middle(name, max(width - len(mark), 3), ellipsis)
        for mark, name in zip(marks, names, strict=True)
    ]
