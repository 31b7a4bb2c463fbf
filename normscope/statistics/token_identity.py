"""Moments by token id, for a bounded number of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from normscope.statistics.moments import Labels, Moments, grown
from normscope.statistics.position_bins import MEMORY


@dataclass(frozen=True)
class TokenRoom:
    """The number of distinct token ids that each layer of a model may store.

    It is `maximum` if that is given. Otherwise it is the number that fits in MEMORY, 1 GiB divided equally
    among all `layers`, with D + 2 float64 per id: 26,747 ids for 13 layers of 384 features, 503 for 65 of
    4,096.
    """

    layers: int
    maximum: int | None = None

    def ids(self, features: int) -> int:
        """Return the number of ids for a layer with `features` features, at least 1."""
        return self.maximum or max(1, MEMORY // (self.layers * 8 * (features + 2)))


class TokenMoments:
    """The count, mean and within-group sum of squares of x for each of at most `most` token ids.

    If there are more ids, the lowest are stored; tokenizers give low ids to the most common words. The
    choice does not depend on the order of the tokens, and a stored id has all of its tokens. The tables
    are therefore exact for the ids that they cover, and merging parts in any order gives the same tables.

    `rows` maps each id to its row in `count` (G, 1), `mean` (G, D) and `within` (G, 1), the sum over
    features of squares around the mean of the id. Rows without an id are zero.
    """

    def __init__(self, features: int, most: int, device: torch.device | str = "cpu") -> None:
        self.most = most
        self.rows: dict[int, int] = {}
        zeros = torch.zeros(0, features, dtype=torch.float64, device=device)
        self.count, self.mean, self.within = zeros[:, :1].clone(), zeros, zeros[:, :1].clone()

    def empty(self) -> "TokenMoments":
        """Return empty tables with the same features, number of ids and device."""
        return TokenMoments(self.mean.shape[1], self.most, self.mean.device)

    def is_numbered(self) -> bool:
        """Whether the ids are in rows 0, 1, ... of the tables, as they are unless a file is damaged."""
        rows = sorted(self.rows.values())
        return rows == list(range(min(len(rows), self.most, len(self.count))))

    def add(self, x: Tensor, token_ids: Tensor) -> None:
        """Add the rows of x (V, D) with these `token_ids` (V,)."""
        ids, group = torch.unique(token_ids, return_inverse=True)
        cells = Moments.by_group(x, Labels.of(group))
        self._merge(ids.tolist(), cells.count, cells.mean, cells.m2.sum(1, keepdim=True))

    def merge(self, new: "TokenMoments") -> None:
        """Add `new`."""
        at = torch.tensor(list(new.rows.values()), dtype=torch.long, device=new.count.device)
        self._merge(list(new.rows), new.count[at], new.mean[at], new.within[at])

    def _merge(self, ids: Sequence[int], count: Tensor, mean: Tensor, within: Tensor) -> None:
        self._admit(ids)
        stored = [i for i, token_id in enumerate(ids) if token_id in self.rows]
        rows = torch.tensor([self.rows[ids[i]] for i in stored], dtype=torch.long, device=count.device)
        if len(stored) < len(ids):
            part = torch.tensor(stored, dtype=torch.long, device=count.device)
            count, mean, within = count[part], mean[part], within[part]
        old, total = self.count[rows], self.count[rows] + count
        delta = mean - self.mean[rows]
        self.mean.index_add_(0, rows, delta * (count / total))
        between = delta.square_().sum(1, keepdim=True) * (old * count / total)
        self.within.index_add_(0, rows, within + between)
        self.count.index_copy_(0, rows, total)

    def _admit(self, ids: Sequence[int]) -> None:
        """Give a row to each new id that is stored; the highest ids are dropped in favour of lower ones."""
        new_ids = [token_id for token_id in ids if token_id not in self.rows]
        used, free = len(self.rows), []
        if used + len(new_ids) > self.most:
            stored = set(sorted([*self.rows, *new_ids])[: self.most])
            new_ids = [token_id for token_id in new_ids if token_id in stored]
            free = [self.rows.pop(token_id) for token_id in [*self.rows] if token_id not in stored]
            for table in (self.count, self.mean, self.within):
                table[free] = 0.0
        # Every freed row is filled again, so that the rows in use are the first ones.
        self.rows.update(zip(new_ids, chain(free, range(used, self.most)), strict=False))
        if len(self.rows) > len(self.count):
            self._grow(min(self.most, 2 * len(self.rows)))

    def _grow(self, rows: int) -> None:
        """Grow the tables to at least `rows` rows; the caller doubles that number, so copies are rare."""
        self.count, self.mean, self.within = (
            grown(table, rows) for table in (self.count, self.mean, self.within)
        )
