"""How a model is run for its norm layers alone, and what it says when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

import torch
from torch import Tensor, nn

from normscope.errors import NormscopeError, RunError
from normscope.printable import reason


class Forward:
    """How a model is run for its norm layers alone: no cache, no logits that nobody reads."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters(), torch.zeros(())).device
        self.parameters = signature(model.forward).parameters
        if getattr(model, "main_input_name", "input_ids") not in ("input_ids", "inputs_embeds", "inputs"):
            raise RunError(
                f"{type(model).__name__} takes no text; expected a text model; use normscope.watch in Python"
            )
        self.decodes = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        wanted = {"use_cache": False, "logits_to_keep": 1}
        self.extra = {name: value for name, value in wanted.items() if name in self.parameters}

    @property
    def takes_mask(self) -> bool:
        """Whether the model can be told which tokens are padding."""
        return "attention_mask" in self.parameters

    def __call__(self, inputs: dict[str, Tensor]) -> None:
        """Run one batch; what the model says when it fails becomes a RunError."""
        if self.decodes:
            inputs = {**inputs, **_decoder_inputs(self.model, inputs)}
        given = {name: value.to(self.device) for name, value in inputs.items() if name in self.parameters}
        try:
            self.model(**given, **self.extra)
        except NormscopeError:
            raise
        except Exception as error:
            if _is_ours(error.__traceback__):
                raise
            raise RunError(_failure(self.model, error)) from error


def _decoder_inputs(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Feed an encoder-decoder's decoder the text itself, shifted right by its start token as in training."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    ids = (getattr(model.config, name, None) for name in names)
    start = next((number for number in ids if number is not None), 0)
    return {
        "decoder_input_ids": shifted(inputs["input_ids"], start),
        "decoder_attention_mask": inputs["attention_mask"],
    }


def shifted(values: Tensor, first: int) -> Tensor:
    """Move (B, T) one to the right, `first` coming in; the last of each row goes."""
    return torch.cat([torch.full_like(values[:, :1], first), values[:, :-1]], dim=1)


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an exception passed through our hooks: then it is our bug, not the model's."""
    return any(Path(frame.filename).name == "watcher.py" for frame in extract_tb(trace))


def _failure(model: nn.Module, error: Exception) -> str:
    why = reason(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory ({why}); try a smaller --batch-size or --max-length"
    name = type(model).__name__
    return f"{name} failed on the texts ({why}); check that model and tokenizer belong together"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode and give every module its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
