"""The tokens of the forward pass under way: read off its arguments, shared by its layers, counted."""

import inspect
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import UsageError
from normscope.layout import Alignment, TokenMask, align
from normscope.report import RunInfo


class ForwardTokens:
    """The tokens of the forward pass under way, and the alignments that its layers share."""

    def __init__(self, model: nn.Module) -> None:
        self.mask: TokenMask | None = None
        self._signature = inspect.signature(model.forward)
        self._known: dict[Any, list[Alignment]] = {}

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any], chosen: Tensor | None) -> None:
        """Read which tokens are real off a forward's arguments; `chosen` (B, T) says which count."""
        self.clear()
        try:
            given = self._signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            given = kwargs  # A call that does not fit the signature: the model's own error is the better one.
        self.mask = _token_mask({**given, **given.get("kwargs", {})}, chosen)

    def clear(self) -> None:
        """Forget the forward pass."""
        self.mask = None
        self._known.clear()

    def parts(
        self, lead: tuple[int, ...], feature_axis: int, size: int, device: torch.device
    ) -> list[Alignment]:
        """Return the alignment of an input with these axes before its features, in parts of `size` rows."""
        key = (lead, feature_axis, size, device)
        if key not in self._known:
            self._known[key] = align(lead, self.mask, feature_axis, device).parts(size)
        return self._known[key]


def _token_mask(given: dict[str, Any], chosen: Tensor | None) -> TokenMask | None:
    """Make a mask of a forward's arguments: the attention mask, else every token, else `chosen` alone."""
    tokens = next(
        (given[k] for k in ("input_ids", "inputs_embeds") if isinstance(given.get(k), Tensor)), None
    )
    real = given.get("attention_mask")
    if not (isinstance(real, Tensor) and real.dim() == 2):
        real = (
            torch.ones(tokens.shape[:2], device=tokens.device)
            if tokens is not None and tokens.dim() > 1
            else chosen
        )
    if real is None:
        return None
    # With a key-value cache the mask also covers earlier tokens: the forward's own are the last.
    length = min(real.shape[1], tokens.shape[1]) if tokens is not None and tokens.dim() > 1 else real.shape[1]
    valid = real[:, -length:] if chosen is None else chosen.to(real.device)
    if valid.shape != (real.shape[0], length):
        raise UsageError(
            f"watcher.mask is {tuple(valid.shape)} and the forward's tokens are {(real.shape[0], length)}; "
            "set a (batch, tokens) mask for each batch, or None"
        )
    return TokenMask(real.detach() != 0, (valid.detach() != 0) & (real[:, -length:].detach() != 0))


class Tally:
    """What a watcher has been shown: forwards, samples, tokens, and the time they took."""

    def __init__(self) -> None:
        self.batches = self.samples = self.tokens = self.real = self.slots = self.positions = 0
        self.seconds = 0.0
        self._since = 0.0

    def start(self) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._since

    def add(self, mask: TokenMask | None) -> None:
        """Count one forward."""
        self.batches += 1
        if mask is not None:
            real = mask.current()
            self.samples += len(real)
            self.slots += real.numel()
            self.real += int(real.sum())
            self.tokens += int(mask.valid.sum())
            self.positions = max(
                self.positions, int(mask.positions()[mask.valid].max()) + 1 if mask.valid.any() else 0
            )

    def run_info(self) -> RunInfo:
        """Return it as a report's account of a run whose batches the user made."""
        return RunInfo(
            texts=self.samples,
            tokens=self.tokens,
            skipped_texts=0,
            truncated_texts=0,
            positions=self.positions,
            max_length=None,
            special_tokens=None,
            batch_size=None,
            batches=self.batches,
            order=None,
            padding_share=self.padding_share(),
            seconds=self.seconds,
        )

    def padding_share(self) -> float:
        """Return padding over all token slots, NaN without any."""
        return 1 - self.real / self.slots if self.slots else math.nan
