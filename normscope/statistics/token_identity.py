"""Moments by token id, for a bounded number of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from normscope.statistics.moments import Labels, Moments, grown

# What the tables of all layers may take, in bytes.
MEMORY = 1 << 30


@dataclass(frozen=True)
class WordRoom:
    """How many distinct token ids each of a model's layers may keep.

    `most` if it is given; else what fits MEMORY, 1 GiB over all `layers` alike, with D + 2 float64 an
    id: 26,747 ids for 13 layers of 384 features, 503 for 65 of 4,096.
    """

    layers: int
    most: int | None = None

    def ids(self, features: int) -> int:
        """Return the number for a layer with so many features, 1 at the least."""
        return self.most or max(1, MEMORY // (self.layers * 8 * (features + 2)))


class Words:
    """The count, mean and within-group sum of squares of x for each of at most `most` token ids.

    Of more ids the lowest are kept, which tokenizers give to the commonest words. Which they are
    does not depend on the order of the tokens, and each kept id has all of its tokens: the tables are
    exact for what they cover, and parts are merged in any order to the same.

    `rows` has the row of each id in `count` (G, 1), `mean` (G, D) and `within` (G, 1), the sum over
    features of squares around the id's mean. Rows of no id are zero.
    """

    def __init__(self, features: int, most: int, device: torch.device | str = "cpu") -> None:
        self.most = most
        self.rows: dict[int, int] = {}
        zeros = torch.zeros(0, features, dtype=torch.float64, device=device)
        self.count, self.mean, self.within = zeros[:, :1].clone(), zeros, zeros[:, :1].clone()

    def empty(self) -> "Words":
        """Return tables like these of nothing yet."""
        return Words(self.mean.shape[1], self.most, self.mean.device)

    def add(self, x: Tensor, word: Tensor) -> None:
        """Add the rows of x (V, D), the token ids of which are `word` (V,)."""
        ids, group = torch.unique(word, return_inverse=True)
        cells = Moments.by_group(x, Labels.of(group))
        self._merge(ids.tolist(), cells.count, cells.mean, cells.m2.sum(1, keepdim=True))

    def merge(self, new: "Words") -> None:
        """Add `new`."""
        at = torch.tensor(list(new.rows.values()), dtype=torch.long, device=new.count.device)
        self._merge(list(new.rows), new.count[at], new.mean[at], new.within[at])

    def _merge(self, ids: Sequence[int], count: Tensor, mean: Tensor, within: Tensor) -> None:
        self._admit(ids)
        kept = [i for i, word in enumerate(ids) if word in self.rows]
        rows = torch.tensor([self.rows[ids[i]] for i in kept], dtype=torch.long, device=count.device)
        if len(kept) < len(ids):
            part = torch.tensor(kept, dtype=torch.long, device=count.device)
            count, mean, within = count[part], mean[part], within[part]
        old, total = self.count[rows], self.count[rows] + count
        delta = mean - self.mean[rows]
        self.mean.index_add_(0, rows, delta * (count / total))
        between = delta.square_().sum(1, keepdim=True) * (old * count / total)
        self.within.index_add_(0, rows, within + between)
        self.count.index_copy_(0, rows, total)

    def _admit(self, ids: Sequence[int]) -> None:
        """Give each new id that is to be kept a row; the highest ids make room for lower ones."""
        fresh = [word for word in ids if word not in self.rows]
        used, free = len(self.rows), []
        if used + len(fresh) > self.most:
            kept = set(sorted([*self.rows, *fresh])[: self.most])
            fresh = [word for word in fresh if word in kept]
            free = [self.rows.pop(word) for word in [*self.rows] if word not in kept]
            for table in (self.count, self.mean, self.within):
                table[free] = 0.0
        # Every freed row is filled again, so that the rows in use are the first ones.
        self.rows.update(zip(fresh, chain(free, range(used, self.most)), strict=False))
        if len(self.rows) > len(self.count):
            self._grow(min(self.most, 2 * len(self.rows)))

    def _grow(self, rows: int) -> None:
        """Make room for so many rows; by doubling, tables are rarely copied."""
        self.count, self.mean, self.within = (
            grown(table, rows) for table in (self.count, self.mean, self.within)
        )
