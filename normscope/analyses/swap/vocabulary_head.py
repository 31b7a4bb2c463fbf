"""Computes a language-model head's logits for chosen tokens alone, a part of them at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import OutOfMemoryError, RunError


class VocabularyHead:
    """A model's last Linear, D features to V logits, where its output is what the model returns as logits.

    `linear` is None where a model has no such Linear, or changes its output, as by a cap.
    """

    def __init__(self, model: nn.Module) -> None:
        get: Any = getattr(model, "get_output_embeddings", lambda: None)
        module = get()
        self.linear: nn.Linear | None = module if isinstance(module, nn.Linear) else None
        self._checked = False

    def check(self, run: Callable[[], Any]) -> None:
        """Test once, on a forward `run`, whether the model returns the Linear's output unchanged."""
        if self._checked or self.linear is None:
            return
        try:
            with self.reading() as inputs:
                logits = getattr(run(), "logits", None)
            (x,) = inputs
            returned = isinstance(logits, Tensor) and torch.equal(logits, self.linear(_first_token(x)))
        except OutOfMemoryError:
            raise
        except (RunError, ValueError):  # It fails on one token, or calls the Linear never or twice.
            returned = False
        self._checked = True
        self.linear = self.linear if returned else None

    @contextmanager
    def reading(self) -> Iterator[list[Tensor]]:
        """Record the Linear's inputs (B, T, D) until the context ends; it computes the first token alone."""
        inputs: list[Tensor] = []

        def record(_module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
            inputs.append(args[0])
            return _first_token(args[0])

        if self.linear is None:
            yield inputs
            return
        with self.linear.register_forward_pre_hook(record):
            yield inputs


def _first_token(x: Tensor) -> Tensor:
    return x[:1, :1]
