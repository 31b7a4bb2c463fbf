"""Dataclasses that several results share: summaries, the model, the run.

Shapes are written with D features and T positions. Arrays are numpy, float64 (counts int64).
A number that is unknown, because data is missing or it does not apply, is NaN here and null in
JSON. All variances are biased (divided by the count), as in nn.LayerNorm and nn.BatchNorm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from normscope.escaping import grouped, printable
from normscope.results.base import Record

# Written in full: readers take the element type from them, and numpy's short form has changed.
Floats = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Summary(Record):
    """Many numbers in five: how many, their mean, biased standard deviation, least and largest."""

    count: int
    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True, eq=False)
class ModelInfo(Record):
    """Which model was measured; `parameters` counts its weights."""

    id: str
    revision: str | None
    commit: str | None
    architecture: str
    dtype: str
    device: str
    parameters: int


@dataclass(frozen=True, eq=False)
class TokenSelection(Record):
    """The rules, other than that for special tokens, that leave real tokens out of the statistics.

    `exclude_tokens` are token ids. `skip_first` is the number of first positions of a text. `drop_massive`
    is for tokens with a massive activation. With `chat_template` the texts are conversations, and only
    tokens of these `roles` count (all if it is empty).
    """

    exclude_tokens: tuple[int, ...] = ()
    skip_first: int = 0
    drop_massive: bool = False
    chat_template: bool = False
    roles: tuple[str, ...] = ()

    def rules(self) -> dict[str, str]:
        """Return which tokens each rule leaves out, by the name of its count in `LeftOut`."""
        places = "position" if self.skip_first == 1 else f"{grouped(self.skip_first)} positions"
        rules = {
            "excluded": "of the excluded ids" if self.exclude_tokens else "",
            "first": f"at the first {places}" if self.skip_first else "",
            "roles": f"of other roles than {printable(' and '.join(self.roles))}" if self.roles else "",
            "massive": "with a massive activation" if self.drop_massive else "",
        }
        return {name: which for name, which in rules.items() if which}

    def __str__(self) -> str:
        rules = self.rules()
        if "excluded" in rules:
            rules["excluded"] += f" {', '.join(map(str, self.exclude_tokens))}"
        texts = ["conversations"] if self.chat_template else []
        return ", ".join([*texts, *([f"without tokens {', or '.join(rules.values())}"] if rules else [])])


@dataclass(frozen=True, eq=False)
class LeftOut(Record):
    """How many real tokens each rule left out; a token counts under the first rule, in this order.

    `special` are special tokens, `excluded` those of chosen ids, `first` those at first positions, `roles`
    those of other roles, and `massive` those with a massive activation.
    """

    special: int = 0
    excluded: int = 0
    first: int = 0
    roles: int = 0
    massive: int = 0


@dataclass(frozen=True, eq=False)
class RunInfo(Record):
    """What was fed to it. `padding_share` is padding over all token slots; `seconds` the run's time.

    `medium` is the kind of the samples that `texts` counts: text, image, audio, or several together.
    `position_bins` are the first positions of the bins that late positions share, None if there are no
    bins. `batch_tokens` is the maximum number of token slots in a batch, if that number decided the batch
    size. `unknown_tokens` is the number of `tokens` that are the tokenizer's unknown token.
    `repeated_texts` is the number of `texts` that repeat an earlier one. Both are None if the texts are
    not known. `selection` and `left_out` are None if no rule left tokens out.
    """

    texts: int
    tokens: int
    skipped_texts: int
    truncated_texts: int
    positions: int
    max_length: int | None
    special_tokens: str | None
    batch_size: int | None
    batches: int
    order: str | None
    padding_share: float
    seconds: float
    medium: str = "text"
    position_bins: tuple[int, ...] | None = None
    batch_tokens: int | None = None
    unknown_tokens: int | None = None
    repeated_texts: int | None = None
    selection: TokenSelection | None = None
    left_out: LeftOut | None = None


@dataclass(frozen=True, eq=False)
class Pooled(Record):
    """Some texts as tokens, each from position 0: what is in one column BatchNorm takes for one feature.

    A token that the statistics leave out is empty.
    """

    texts: tuple[tuple[str, ...], ...]
