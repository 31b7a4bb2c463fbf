"""The mean last hidden state of each text, of a model and of the same model with one layer replaced."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.options import BY_TEXT
from normscope.analyses.swap.predictions import Readout
from normscope.analyses.swap.prefix_cache import Prefix
from normscope.analyses.swap.swapped import Swap
from normscope.capture.recorder import Recorder
from normscope.data.batch import Batch, shifted
from normscope.data.batching import Batching
from normscope.data.corpus import no_text
from normscope.data.tokenization import special_ids
from normscope.engine.batch_splitting import BatchSplitter
from normscope.engine.forward import Forward, evaluating
from normscope.engine.session import Session, text_batches
from normscope.models.loading import Loaded, quiet
from normscope.norms.module_tree import uncompiled
from normscope.statistics.layout import UNALIGNED

# Vectors (N, D) by the kind of replacement and the name of the layer.
ByLayer = dict[str, dict[str, Tensor]]


def text_vectors(
    loaded: Loaded,
    texts: Sequence[str],
    batching: Batching,
    kinds: Sequence[str],
    layers: Sequence[str],
    calibration: Calibration,
) -> tuple[Tensor, ByLayer]:
    """Return the vectors of N texts, (N, D) float64, of the untouched model and of each layer replaced alone.

    The vector of a text is the mean of its last hidden states over the tokens that are not special, also
    where `batching` counts special tokens. It is NaN for a text without such a token, and for one that
    `batching` leaves out. Of `layers`, those are replaced that `calibration` knows.

    Raises UsageError for a kind or a layer that cannot be replaced, TextError if no text has a token, and
    RunError when the model fails or has no last hidden states.
    """
    model = loaded.model
    # A base model without its head computes no logits.
    base = getattr(model, "base_model", model)
    if not Forward(base).takes_mask:
        batching = replace(batching, batch_size=1)
    patterns = [glob.escape(name) for name in layers]
    swaps = {kind: Swap(model, kind, calibration, patterns) for kind in kinds}
    _align(loaded, [swap for swap in swaps.values() if swap.kind in BY_TEXT])
    trials = _Trials(loaded, base, swaps)
    splitter = BatchSplitter(trials.device, "")
    batches = text_batches(loaded, texts, batching)
    rows: list[int] = []
    vectors: list[list[Tensor]] = []
    with quiet(), uncompiled(), evaluating(model), torch.no_grad():
        for batch in batches:
            rows += batch.sources
            vectors += splitter.work(batch, lambda parts: [*map(trials.run, parts)])
    if not rows:
        raise no_text(batches.skipped)
    own, *replaced = (_placed(torch.cat(parts), rows, len(texts)) for parts in zip(*vectors, strict=True))
    remaining = iter(replaced)
    return own, {kind: {name: next(remaining) for name in swap.names} for kind, swap in trials.swaps.items()}


def _align(loaded: Loaded, swaps: Sequence[Swap]) -> None:
    """Find the text axis of the layers' inputs: in a batch of as many texts as tokens, sizes do not tell."""
    if not swaps:
        return
    recorder = Recorder(loaded.model)
    session = Session(loaded)
    with session.watching(recorder):
        session.prepare(recorder, text_batches(loaded, (), Batching()))
    layouts = {capture.norm.name: capture.state.known_layout for capture in recorder.captures}
    for swap in swaps:
        swap.align({name: None if layout == UNALIGNED else layout for name, layout in layouts.items()})


def _placed(vectors: Tensor, rows: Sequence[int], count: int) -> Tensor:
    """Return a table (count, D) with the vectors at these rows, and NaN elsewhere."""
    table = vectors.new_full((count, vectors.shape[1]), torch.nan)
    table[torch.tensor(rows)] = vectors
    return table


class _Trials:
    """Runs a batch once per kind and layer, from the block of the replaced layer on."""

    def __init__(self, loaded: Loaded, base: nn.Module, swaps: Mapping[str, Swap]) -> None:
        self.swaps = swaps
        tokenizer: Any = loaded.tokenizer
        self._readout = Readout(base, tokenizer, predicts=False)
        self._special = torch.tensor(sorted(special_ids(tokenizer)), dtype=torch.int64)
        modules = {name: module for swap in swaps.values() for name, module in swap.modules.items()}
        self._prefix = Prefix(base, modules)
        self.device = self._readout.device

    def run(self, batch: Batch) -> list[Tensor]:
        """Return the vectors of a batch, (B, D): the untouched model's, then those of each kind's layers."""
        # The vectors leave special tokens out; a text's statistics have them if the batching counts them.
        words = ~torch.isin(batch.inputs["input_ids"], self._special)
        read = batch.decoder_valid & shifted(words, first=False)
        question = self._readout.ask(replace(batch, valid=batch.valid & words, decoder_valid=read))
        with self._prefix.recording():
            own = self._readout.read(question)
        self._prefix.check(lambda: self._readout.read(question).equals(own))
        vectors = [_means(own.hidden, question.valid)]
        for swap in self.swaps.values():
            swap.mask, swap.decoder_mask = batch.valid, batch.decoder_valid
            for name in swap.names:
                if not self._prefix.saw(name):
                    vectors.append(vectors[0])  # A layer of the head.
                    continue
                with swap.replacing([name]), self._prefix.replaying([name]):
                    vectors.append(_means(self._readout.read(question).hidden, question.valid))
        self._prefix.clear()
        return vectors


def _means(hidden: Tensor, valid: Tensor) -> Tensor:
    """Average hidden states (B, T, D) over the valid tokens, (B, D) float64; NaN where there is none."""
    return hidden.double().where(valid[..., None], 0).sum(1) / valid.sum(1, keepdim=True)
