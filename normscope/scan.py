"""The loop: texts through the model, every normalization layer measured on the way."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.batches import Batching
from normscope.loading import Loading
from normscope.report import Report

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Progress:
    """How far a run is: `stage` is "load" or "run"; `expected_texts` is a guess, None without one."""

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float


def inspect(
    model: "str | os.PathLike[str] | nn.Module",
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),  # noqa: B008 (frozen)
    batching: Batching = Batching(),  # noqa: B008 (frozen)
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    raise NotImplementedError
