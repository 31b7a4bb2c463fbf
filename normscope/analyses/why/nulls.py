"""Nulls that run a model again: words shuffled across texts, and an untrained copy of the model."""

import copy
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analyses.why.token_sample import KeptTokens
from normscope.capture.watcher import Watcher
from normscope.data.batching import AUTO, AUTO_TOKENS, Batch, Batching
from normscope.data.tokenization import TextEncoder
from normscope.engine.forward import Forward, evaluating
from normscope.engine.loop import probed
from normscope.engine.runner import decoder_valid
from normscope.models.loading import Loaded, quiet

# A null is an average over texts: so many are enough.
NULL_TEXTS = 128
# An untrained copy takes the memory of the model once more.
_LARGEST = 1_000_000_000

Tokens = list[int]


def chosen(sources: Sequence[int]) -> list[int]:
    """Choose at most NULL_TEXTS texts, evenly spaced over the corpus."""
    spaced = torch.linspace(0, len(sources) - 1, min(NULL_TEXTS, len(sources))).round().long()
    return [sources[i] for i in spaced.tolist()]


def shuffled(texts: Sequence[Tokens], pool: Sequence[Tokens], special: Collection[int], seed: int) -> list[Tokens]:
    """Return the texts with other words: drawn without replacement from those of all texts in the `pool`.

    Special tokens stay where they are, so that lengths and templates do.
    """
    words = torch.tensor([token for text in pool for token in text if token not in special])
    generator = torch.Generator().manual_seed(seed)
    drawn = iter(words[torch.randperm(len(words), generator=generator)].tolist())
    return [[token if token in special else next(drawn) for token in text] for text in texts]


def keep_tokens(
    loaded: Loaded, texts: Sequence[Tokens], batching: Batching, watcher: Watcher, kept: KeptTokens
) -> None:
    """Run texts that are tokens already, and keep what each layer gets of them."""
    watcher.name_words()
    forward = Forward(loaded.model)
    with quiet(), watcher, evaluating(loaded.model), torch.no_grad():
        _, batching = probed(loaded, watcher, forward, batching)
        watcher.plan_tables(max(map(len, texts)))
        kept.fit(capture.norm.features for capture in watcher.captures)
        for capture in watcher.captures:
            capture.kept = kept.layer(capture.norm.name)
        for batch in batches(loaded, texts, batching):
            kept.begin(batch)
            watcher.mask, watcher.decoder_mask = batch.valid, decoder_valid(batch, batching)
            forward(batch.inputs)


def batches(loaded: Loaded, texts: Sequence[Tokens], batching: Batching) -> Iterator[Batch]:
    """Pad texts of like length to batches, the longest first; every token counts."""
    tokenizer: Any = loaded.tokenizer
    pad = TextEncoder(tokenizer, asked=None, limit=None, excluding=False).pad_id
    waiting = iter(sorted(range(len(texts)), key=lambda i: -len(texts[i])))
    while (first := next(waiting, None)) is not None:
        size = batching.batch_size
        number = max(1, AUTO_TOKENS // len(texts[first])) if size == AUTO else size
        sources = (first, *islice(waiting, number - 1))
        lengths = torch.tensor([len(texts[i]) for i in sources])
        mask = torch.arange(len(texts[first])) < lengths[:, None]  # (B, T)
        ids = torch.full(mask.shape, pad, dtype=torch.int64)
        ids[mask] = torch.tensor([token for i in sources for token in texts[i]])
        yield Batch({"input_ids": ids, "attention_mask": mask.long()}, mask, mask, sources)


def untrained(loaded: Loaded, seed: int) -> Loaded | str:
    """Return a copy of a model with its initial weights; why there is none, where it cannot be made."""
    model: Any = loaded.model
    if not hasattr(type(model), "_from_config") or getattr(model, "config", None) is None:
        return "the class of the model cannot make an untrained copy from a configuration"
    if getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False):
        return "a model that is spread over devices, or quantized, has no untrained copy"
    number = sum(parameter.numel() for parameter in model.parameters())
    if number > _LARGEST:
        return f"an untrained copy of {number:,} parameters would take too much memory"
    place = next(model.parameters())
    devices = [place.device] if place.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        new: nn.Module = type(model)._from_config(copy.deepcopy(model.config), dtype=place.dtype)
    return Loaded(new.to(place.device), loaded.tokenizer, loaded.id, None, None, (), None)  # type: ignore[arg-type]


def mean_vectors(hidden: Tensor, counts: Tensor) -> Tensor:
    """Return the mean (B, D) of each text's hidden states (B, T, D) over the tokens that count (B, T)."""
    weights = counts.to(torch.float64)[..., None]
    return (hidden.double() * weights).sum(1) / weights.sum(1)
