"""A model's answers to a batch: its last hidden state and, with a language-model head, its predictions."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.data.batching import Batch, Batching
from normscope.engine.forward import Forward, tensors_in
from normscope.engine.runner import decoder_valid
from normscope.errors import RunError

# The share of a text's tokens that a masked language model is asked for: Devlin et al. 2018, BERT.
_MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Question:
    """A batch as it is put to a model: B texts of up to T tokens.

    `valid` (B, T) are the tokens whose hidden states count. The model is asked for M tokens: those with
    the ids `target` (M,), in the logits at row `text` (M,) and position `place` (M,).
    """

    inputs: dict[str, Tensor]
    valid: Tensor
    text: Tensor
    place: Tensor
    target: Tensor


@dataclass(frozen=True)
class Answer:
    """What a model makes of a question: the last hidden state (B, T, D), and logits (M, vocabulary)."""

    hidden: Tensor
    logits: Tensor | None


class Readout:
    """Asks one model; `head` says what its head predicts: "causal", "masked", "seq2seq", or None."""

    def __init__(self, model: nn.Module, tokenizer: Any, batching: Batching, seed: int) -> None:
        self._model: Any = model
        self._tokenizer, self._batching, self._seed = tokenizer, batching, seed
        self.head = _head_of(model)
        self.notes: list[str] = []
        if self.head == "masked" and getattr(tokenizer, "mask_token_id", None) is None:
            self.head = None
            self.notes.append("the tokenizer has no mask token: what the head predicts is not measured")
        self._forward = Forward(model, logits=self.head is not None)
        base = getattr(model, "base_model", model)
        self._base = None if base is model else base
        if self._base is None and self.head is not None:
            self._forward.extra["output_hidden_states"] = True

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._forward.device

    def ask(self, batch: Batch) -> Question:
        """Put a batch as a question; which tokens are masked depends on the seed and the text alone."""
        ids, inputs = batch.inputs["input_ids"], batch.inputs
        asked = torch.zeros_like(batch.mask)
        if self.head == "causal":
            asked[:, :-1] = batch.valid[:, 1:] & batch.mask[:, :-1]
            target = ids.roll(-1, 1)
        elif self.head == "masked":
            asked, target = self._masked(batch), ids
            inputs = {**inputs, "input_ids": ids.where(~asked, self._tokenizer.mask_token_id)}
        elif self.head == "seq2seq":
            asked, target = batch.valid, ids  # A decoder is fed the text shifted right by one.
        text, place = asked.nonzero(as_tuple=True)
        target = target[asked] if self.head else ids.new_zeros(0)
        valid = decoder_valid(batch, self._batching) if self._forward.decodes else batch.valid
        return Question(inputs, valid, text, place, target)

    def _masked(self, batch: Batch) -> Tensor:
        """Choose the tokens to mask, (B, T): 15 % of each text's words, one at least."""
        special = torch.tensor(sorted(set(self._tokenizer.all_special_ids)))
        words = batch.valid & ~torch.isin(batch.inputs["input_ids"], special)
        chosen = torch.zeros_like(words)
        for row, source in enumerate(batch.sources):
            dice = torch.Generator().manual_seed(self._seed * 1_000_003 + source)
            places = words[row].nonzero()[:, 0]
            count = min(len(places), max(1, round(_MASKED_SHARE * len(places))))
            chosen[row, places[torch.randperm(len(places), generator=dice)[:count]]] = True
        return chosen

    def read(self, question: Question) -> Answer:
        """Run the model; RunError when it fails, or gives no hidden state for each token."""
        seen: list[Any] = []
        with ExitStack() as hooks:
            if self._base is not None:
                handle = self._base.register_forward_hook(lambda _module, _args, output: seen.append(output))
                hooks.callback(handle.remove)
            output = self._forward(question.inputs)
        hidden = _last_hidden([*seen[-1:], output], tuple(question.valid.shape))
        if hidden is None:
            name = type(self._model).__name__
            raise RunError(
                f"{name} gives no last hidden state of {tuple(question.valid.shape)} tokens; "
                "expected one; use a model of text, or normscope.swapped in Python"
            )
        return Answer(hidden, None if self.head is None else self._logits(output, question))

    def output(self, question: Question) -> Any:
        """Run the model and return what it returns; RunError when it fails."""
        return self._forward(question.inputs)

    def returned(self, question: Question) -> list[Tensor]:
        """Run the model and return every tensor that it returns, those of all tokens at the valid ones."""
        found = tensors_in(self.output(question))
        valid = question.valid
        return [v[valid.to(v.device)] if v.shape[:2] == valid.shape else v for v in found]

    def _logits(self, output: Any, question: Question) -> Tensor:
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.shape[:2] != question.valid.shape:
            raise RunError(
                f"{type(self._model).__name__} gives no logits for each token; expected some of a model with "
                "a language-modelling head; load it without its head"
            )
        return logits[question.text.to(logits.device), question.place.to(logits.device)].float().cpu()


def _head_of(model: nn.Module) -> str | None:
    """Tell by its class what a model's language-modelling head predicts, None without such a head."""
    name = type(model).__name__
    if "MaskedLM" in name:
        return "masked"
    generates = "ConditionalGeneration" in name
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "seq2seq" if generates else None
    return "causal" if generates or "CausalLM" in name or "LMHead" in name else None


def _last_hidden(outputs: list[Any], tokens: tuple[int, ...]) -> Tensor | None:
    """Find the last hidden state in what a model, or its base, gave: that of a decoder where there is one."""
    for output in outputs:
        states = (
            getattr(output, "decoder_hidden_states", None) or getattr(output, "hidden_states", None) or ()
        )
        first = output[0] if isinstance(output, tuple) and output else None
        for found in (getattr(output, "last_hidden_state", None), *states[-1:], first, output):
            if isinstance(found, Tensor) and found.dim() == 3 and tuple(found.shape[:2]) == tokens:
                return found.cpu()
    return None
