"""A model's answers to a batch: its last hidden states and, with a language-model head, its predictions."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.analyses.swap.vocabulary_head import VocabularyHead
from normscope.data.batch import Batch
from normscope.engine.forward import Forward, tensors_in
from normscope.errors import RunError

# The share of a text's tokens that a masked language model has to predict: Devlin et al. 2018, BERT.
_MASKED_SHARE = 0.15
# The numbers of logits that are computed, and yielded, at once.
_COMPUTED, _PART = 1 << 22, 1 << 19


@dataclass(frozen=True)
class Question:
    """A model's inputs for a batch of B texts of up to T tokens, and the M tokens that it has to predict.

    `valid` (B, T) marks the tokens whose hidden states count. Token m has the id `target[m]`, and its
    prediction is in the logits at row `text[m]` and column `position[m]`.
    """

    inputs: dict[str, Tensor]
    valid: Tensor
    text: Tensor
    position: Tensor
    target: Tensor


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question: the last hidden states (B, T, D), and what gives the logits.

    `rows` are the logits (M, V) over a vocabulary of V tokens, or the inputs (M, D) of the `linear` that
    computes them; None without a head.
    """

    hidden: Tensor
    rows: Tensor | None = None
    linear: nn.Linear | None = None

    def equals(self, other: "Answer") -> bool:
        """Whether another answer is bit-identical."""
        pairs = ((self.hidden, other.hidden), (self.rows, other.rows))
        return all(b is None or (a is not None and torch.equal(a, b)) for a, b in pairs)

    def logits(self) -> Iterator[Tensor]:
        """Yield the logits of all M tokens in order, in parts (m, V) that stay in a processor's cache."""
        if self.rows is None:
            return
        width = self.rows.shape[1] if self.linear is None else self.linear.out_features
        # A product of few rows is slow, so that a part is not computed alone.
        for rows in torch.split(self.rows, max(1, _COMPUTED // max(1, width))):
            logits = rows if self.linear is None else self.linear(rows)
            yield from torch.split(logits, max(1, _PART // max(1, width)))


class Readout:
    """Asks one model; its language-model `head` is "causal", "masked", "seq2seq", or None.

    Unless it `predicts`, a head is not asked, and no token is masked.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, seed: int = 0, *, predicts: bool = True) -> None:
        self._model: Any = model
        self._tokenizer, self._seed = tokenizer, seed
        head = _head_of(model)
        self.head = head if predicts else None
        self.notes: list[str] = []
        if self.head == "masked" and getattr(tokenizer, "mask_token_id", None) is None:
            self.head = None
            self.notes.append("the tokenizer has no mask token: what the head predicts is not measured")
        self._vocabulary = VocabularyHead(model) if self.head is not None else None
        self._forward = Forward(model, logits=self.head is not None)
        # The output of a model with a head may lack the last hidden states; its base model returns them.
        base = getattr(model, "base_model", model)
        self._base = None if base is model else base
        if self._base is None and head is not None:
            self._forward.extra["output_hidden_states"] = True

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._forward.device

    def ask(self, batch: Batch) -> Question:
        """Make a question of a batch; the masked tokens depend on the seed and the text alone."""
        ids, inputs = batch.inputs["input_ids"], batch.inputs
        predicted, targets = torch.zeros_like(batch.mask), ids
        if self.head == "causal":
            predicted[:, :-1] = batch.valid[:, 1:] & batch.mask[:, :-1]
            targets = ids.roll(-1, 1)
        elif self.head == "masked":
            predicted = self._random_mask(batch)
            inputs = {**inputs, "input_ids": ids.where(~predicted, self._tokenizer.mask_token_id)}
        elif self.head == "seq2seq":
            predicted = batch.valid  # A decoder reads the text shifted right by one.
        text, position = predicted.nonzero(as_tuple=True)
        valid = batch.decoder_valid if self._forward.decodes else batch.valid
        return Question(inputs, valid, text, position, targets[predicted])

    def _random_mask(self, batch: Batch) -> Tensor:
        """Choose the tokens to mask, (B, T): 15 % of each text's non-special tokens, at least one."""
        special = torch.tensor(sorted(set(self._tokenizer.all_special_ids)))
        maskable = batch.valid & ~torch.isin(batch.inputs["input_ids"], special)
        mask = torch.zeros_like(maskable)
        for row, source in enumerate(batch.sources):
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + source)
            positions = maskable[row].nonzero()[:, 0]
            count = min(len(positions), max(1, round(_MASKED_SHARE * len(positions))))
            mask[row, positions[torch.randperm(len(positions), generator=generator)[:count]]] = True
        return mask

    def prepare(self, question: Question) -> None:
        """Find out once, on the untouched model and one text, whether `read` may compute few logits."""
        if self._vocabulary is not None:
            one = {name: values[:1] for name, values in question.inputs.items()}
            self._vocabulary.check(lambda: self._forward(one), (1, question.valid.shape[1]))

    def read(self, question: Question) -> Answer:
        """Run the model; RunError when it fails, or returns no hidden state for each token."""
        vocabulary = self._vocabulary
        base_outputs: list[Any] = []
        with ExitStack() as hooks:
            if self._base is not None:
                record = self._base.register_forward_hook(lambda _, __, output: base_outputs.append(output))
                hooks.enter_context(record)
            inputs = hooks.enter_context(vocabulary.reading()) if vocabulary is not None else []
            output = self._forward(question.inputs)
        hidden = _last_hidden([*base_outputs[-1:], output], tuple(question.valid.shape))
        if hidden is None:
            name = type(self._model).__name__
            raise RunError(
                f"{name} gives no last hidden state of {tuple(question.valid.shape)} tokens; "
                "expected one; use a model of text, or normscope.swapped in Python"
            )
        if vocabulary is None:
            return Answer(hidden)
        by_token = inputs[0] if vocabulary.linear is not None else self._logits(output, question)
        rows = by_token[question.text.to(by_token.device), question.position.to(by_token.device)]
        return Answer(hidden, rows, vocabulary.linear)

    def output(self, question: Question) -> Any:
        """Run the model and return its output; RunError when it fails."""
        return self._forward(question.inputs)

    def output_tensors(self, question: Question) -> list[Tensor]:
        """Run the model and return every tensor of its output; those by token are cut to the valid tokens."""
        valid = question.valid
        values = tensors_in(self.output(question))
        return [v[valid.to(v.device)] if v.shape[:2] == valid.shape else v for v in values]

    def _logits(self, output: Any, question: Question) -> Tensor:
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.shape[:2] != question.valid.shape:
            raise RunError(
                f"{type(self._model).__name__} gives no logits for each token; expected some of a model with "
                "a language-modelling head; load it without its head"
            )
        return logits


def _head_of(model: nn.Module) -> str | None:
    """Return the kind of a model's language-modelling head by its class, None without such a head."""
    name = type(model).__name__
    if "MaskedLM" in name:
        return "masked"
    generates = "ConditionalGeneration" in name
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return "seq2seq" if generates else None
    return "causal" if generates or "CausalLM" in name or "LMHead" in name else None


def _last_hidden(outputs: list[Any], tokens: tuple[int, ...]) -> Tensor | None:
    """Find the last hidden states in the outputs of a model and its base; a decoder's come first."""
    for output in outputs:
        states = (
            getattr(output, "decoder_hidden_states", None) or getattr(output, "hidden_states", None) or ()
        )
        first = output[0] if isinstance(output, tuple) and output else None
        for value in (getattr(output, "last_hidden_state", None), *states[-1:], first, output):
            if isinstance(value, Tensor) and value.dim() == 3 and tuple(value.shape[:2]) == tokens:
                return value.cpu()
    return None
