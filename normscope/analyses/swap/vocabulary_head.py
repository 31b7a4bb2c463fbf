"""Computes a language-model head's logits for chosen tokens alone, a part of them at a time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import OutOfMemoryError, RunError


class VocabularyHead:
    """A model's last Linear, D features to V logits.

    `linear` is set by `check` if the model returns the Linear's output as its logits, and changes nothing,
    as a cap would.
    """

    def __init__(self, model: nn.Module) -> None:
        get: Any = getattr(model, "get_output_embeddings", lambda: None)
        self.linear: nn.Linear | None = None
        self._unchecked: nn.Module | None = get()

    def check(self, run: Callable[[], Any], tokens: tuple[int, int]) -> None:
        """Test once, on a forward `run` of (B, T) `tokens`, whether the logits are the Linear's output."""
        linear, self._unchecked = self._unchecked, None
        if not isinstance(linear, nn.Linear):
            return
        try:
            with _reading(linear) as inputs:
                logits = getattr(run(), "logits", None)
        except OutOfMemoryError:
            self._unchecked = linear
            raise
        except RunError:  # The model does not run with the logits of one token.
            return
        if len(inputs) == 1 and inputs[0].shape[:2] == tokens and isinstance(logits, Tensor):
            self.linear = linear if torch.equal(logits, linear(_first_token(inputs[0]))) else None

    def reading(self) -> AbstractContextManager[list[Tensor]]:
        """Record the Linear's inputs (B, T, D) until the context ends; it computes the first token alone."""
        return nullcontext([]) if self.linear is None else _reading(self.linear)


@contextmanager
def _reading(linear: nn.Linear) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []

    def record(_module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        inputs.append(args[0])
        return _first_token(args[0])

    with linear.register_forward_pre_hook(record):
        yield inputs


def _first_token(x: Tensor) -> Tensor:
    return x[:1, :1]
