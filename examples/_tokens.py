"""Tokens of texts at each norm of a model, with changed words or positions, and their batch noise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normscope.analyses.why.measures import SIZE, Sampling
from normscope.models.loading import Loaded, load
from normscope.statistics.expected_noise import SortedPairs, TextSums, random_excess, sorted_excess
from normscope.statistics.moments import Labels, Moments

Ratios = dict[str, Tensor]
"""By norm: the ratio of all texts, then those of the replicates of the jackknife, (R,)."""


def pretrained(*, reduced: bool) -> Loaded:
    """Return MiniLM, or the reduced form's first of its six blocks."""
    demo: Any = load("demo")
    if reduced:
        demo.model.encoder.layer = demo.model.encoder.layer[:1]
        demo.model.config.num_hidden_layers = 1
    loaded: Loaded = demo
    return loaded


def token_ids(demo: Loaded, texts: Sequence[str], length: int) -> list[Tensor]:
    """Return the token ids (T,) of each text, cut to `length` of them."""
    tokenizer: Any = demo.tokenizer
    rows = tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
    return [torch.tensor(row) for row in rows]


class Tokens(NamedTuple):
    """The V tokens of some texts: the input (V, D) of each norm, each token's text, and if it is special."""

    norms: dict[str, Tensor]
    text: Tensor
    special: Tensor


def run(demo: Loaded, texts: Sequence[Tensor], length: int, *, any_position: bool = False) -> Tokens:
    """Run the model on texts of token ids (T,) each.

    With `any_position` a text gets positions at random from all of them, in their order: then a late
    position says nothing about the length of a text.
    """
    tokenizer: Any = demo.tokenizer
    dice = torch.Generator().manual_seed(0)
    rows: dict[str, list[Tensor]] = {}
    mask = torch.empty(0)

    def keep(name: str, x: Tensor) -> None:
        rows.setdefault(name, []).append(x[mask])

    norms = {name: norm for name, norm in demo.model.named_modules() if isinstance(norm, nn.LayerNorm)}
    hooks = [
        norm.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
        for name, norm in norms.items()
    ]
    for start in range(0, len(texts), 32):
        some = texts[start : start + 32]
        ids = nn.utils.rnn.pad_sequence(list(some), batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in some])[:, None]
        places = torch.arange(ids.shape[1]).repeat(len(some), 1)
        for place, text in zip(places, some, strict=True):
            if any_position:
                place[: len(text)] = torch.randperm(length, generator=dice)[: len(text)].sort().values
        with torch.no_grad():
            demo.model(ids, attention_mask=mask.long(), position_ids=places)
    for hook in hooks:
        hook.remove()
    number = torch.repeat_interleave(torch.tensor([len(text) for text in texts]))
    return Tokens({name: torch.cat(parts) for name, parts in rows.items()}, number, special(demo, texts))


def special(demo: Loaded, texts: Sequence[Tensor]) -> Tensor:
    """Return which tokens of all texts are special, (V,)."""
    tokenizer: Any = demo.tokenizer
    return torch.isin(torch.cat(list(texts)), torch.tensor(tokenizer.all_special_ids))


def shuffled(demo: Loaded, texts: Sequence[Tensor]) -> list[Tensor]:
    """Return the texts with all tokens that are not special in a random order over all texts."""
    ids, ordinary = torch.cat(list(texts)), ~special(demo, texts)
    order = torch.randperm(int(ordinary.sum()), generator=torch.Generator().manual_seed(0))
    ids[ordinary] = ids[ordinary][order]
    return list(torch.split(ids, [len(text) for text in texts]))


def ratios(tokens: Tokens, *, with_special: bool = False) -> Ratios:
    """Return the noise per feature of batches by length over random ones, as claim 1c takes it."""
    counted = torch.ones_like(tokens.special) if with_special else ~tokens.special
    sampling, labels = Sampling.of(torch.bincount(tokens.text), 0), Labels.of(tokens.text[counted])
    pairs = SortedPairs.of(sampling.orders, sampling.weights, SIZE)
    found = {}
    for name, x in tokens.norms.items():
        sums = TextSums.of(Moments.by_group(x[counted].double(), labels)).centred(sampling.weights)
        found[name] = sorted_excess(sums, pairs) / random_excess(sums, SIZE)
    return found
