"""The loop: texts through the model, every normalization layer measured on the way."""

import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.batches import Batches, Batching, length_limit
from normscope.errors import NormscopeError, RunError, TextError, UsageError
from normscope.layers import find
from normscope.loading import Loaded, load, quiet
from normscope.printable import reason
from normscope.report import Report, RunInfo
from normscope.source import Loading
from normscope.watcher import Watcher, describe, watch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Progress:
    """How far a run is: `stage` is "load" or "run"; `expected_texts` is a guess, None without one."""

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float


def inspect(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run texts through a model and report the statistics of its normalization layers.

    `model` is a Hub id, a folder in Hugging Face layout, "demo", what `load` returned, or a model
    object, which then needs its `tokenizer`. An object is used where it is, in evaluation mode for
    the length of the call.
    `texts` is any iterable of strings, one sample each; it is read as a stream. `layers` and
    `exclude` are globs that choose the layers to measure. `progress` is called now and then.

    Raises ModelError when the model cannot be loaded, TextError when there is nothing to measure,
    UsageError for options that cannot be, and RunError when the model fails on the texts.
    """
    if isinstance(texts, str):
        raise UsageError("texts is one string; expected an iterable of strings: put it in a list")
    clock = _Clock(progress)
    clock.show("load")
    loaded = _loaded(model, tokenizer, loading)
    return _measure(loaded, iter(texts), batching, watch(loaded.model, layers=layers, exclude=exclude), clock)


def layer_names(loaded: Loaded, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Name the layers that `inspect` would measure, in its order; UsageError for a glob without a match."""
    return [norm.name for norm in find(loaded.model, only, exclude)]


def _loaded(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    tokenizer: "PreTrainedTokenizerBase | None",
    loading: Loading,
) -> Loaded:
    if isinstance(model, Loaded):
        return model
    if not isinstance(model, nn.Module):
        return load(model, loading)
    if tokenizer is None:
        raise UsageError("a model object came without a tokenizer; pass tokenizer=... or the model's id")
    name = getattr(model, "name_or_path", "") or type(model).__name__
    return Loaded(model=model, tokenizer=tokenizer, id=name, revision=None, commit=None, warnings=())  # type: ignore[arg-type]


def _measure(
    loaded: Loaded, texts: Iterator[str], batching: Batching, watcher: Watcher, clock: "_Clock"
) -> Report:
    if not watcher.captures:
        name = type(loaded.model).__name__
        raise UsageError(
            f"no normalization layer of {name} is left to measure; expected at least one; see --exclude"
        )
    call = _Call(loaded.model)
    if not call.takes_mask:
        # Padding would leak into the tokens of a model that cannot be told of it.
        batching = replace(batching, batch_size=1)
    config = getattr(loaded.model, "config", None)
    batches = Batches(texts, loaded.tokenizer, batching, max_length=length_limit(loaded.tokenizer, config))
    with quiet(), watcher, _evaluating(loaded.model), torch.no_grad():
        for batch in batches:
            watcher.mask = batch.valid
            call(batch.inputs)
            clock.show(
                "run", batches.texts - batches.pending, watcher.tally.tokens, _expected(batches, texts)
            )
    if not watcher.tally.tokens:
        raise TextError(
            f"no text to measure ({batches.skipped} blank); expected at least one text with a word in it"
        )
    _require_numbers(watcher)
    model = describe(loaded.model, loaded.id)
    return watcher.report_as(
        replace(model, revision=loaded.revision, commit=loaded.commit),
        _run_info(watcher, batches, batching, clock.seconds()),
        loaded.warnings,
    )


def _require_numbers(watcher: Watcher) -> None:
    called = [capture for capture in watcher.captures if capture.calls]
    if called and all(capture.moments is None for capture in called):
        raise RunError(
            f"every token at all {len(called)} layers is NaN or infinite; expected finite activations; "
            "check the weights, or try --dtype float32"
        )


def _expected(batches: Batches, texts: Iterator[str]) -> int | None:
    """Guess how many texts there are; None while a source that has not ended gives no hint."""
    if batches.ended:
        return batches.texts
    left = operator.length_hint(texts)
    most = math.inf if batches.limit is None else batches.limit
    return int(min(batches.texts + left, most)) if left else None


def _run_info(watcher: Watcher, batches: Batches, batching: Batching, seconds: float) -> RunInfo:
    return replace(
        watcher.tally.run_info(),
        texts=batches.texts,
        skipped_texts=batches.skipped,
        truncated_texts=batches.truncated,
        max_length=batches.max_length,
        special_tokens=batching.special_tokens,
        batch_size=batching.batch_size,
        order=batching.order,
        seconds=seconds,
    )


class _Call:
    """How a model is run for its norm layers alone: no cache, no logits that nobody reads."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.device = next(model.parameters(), torch.zeros(())).device
        self.parameters = signature(model.forward).parameters
        if "input_ids" not in self.parameters and "kwargs" not in self.parameters:
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
    config: Any = model.config
    ids, starts = (
        inputs["input_ids"],
        (config.decoder_start_token_id, config.bos_token_id, config.pad_token_id, 0),
    )
    start = next(number for number in starts if number is not None)
    shifted = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
    return {"decoder_input_ids": shifted, "decoder_attention_mask": inputs["attention_mask"]}


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
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode and give every module its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Clock:
    """Tells a caller how far the run is."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress, self._begun = progress, time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._begun

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function, if there is one."""
        if self._progress:
            self._progress(Progress(stage, texts, tokens, expected, self.seconds()))
