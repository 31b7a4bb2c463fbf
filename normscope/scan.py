"""The loop: texts, images or sounds through the model, every normalization layer measured on the way."""

import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope.batches import AUTO, Batches, Batching, length_limit
from normscope.bins import MEMORY, TablePlan
from normscope.errors import RunError, TextError, UsageError
from normscope.forward import Forward, evaluating
from normscope.kept import Kept
from normscope.kinds import TEXT, require_kinds
from normscope.layers import find
from normscope.loading import Loaded, load, quiet
from normscope.media import Given, Place
from normscope.media_batches import MediaBatches
from normscope.report import Report, RunInfo
from normscope.runner import Runner
from normscope.source import Loading
from normscope.tally import Tally
from normscope.watcher import Watcher, describe, watch
from normscope.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Texts and tokens of the probe: no head count, no other size of a model is likely to be either.
PROBE = (3, 11)


@dataclass(frozen=True)
class Progress:
    """How far a run is: `stage` is "load", "plan" or "run"; `expected_texts` is a guess, None without one.

    `tables` are what is planned of the tables over positions, told once, at the stage "plan".
    """

    stage: str
    texts: int
    tokens: int
    expected_texts: int | None
    seconds: float
    tables: TablePlan | None = None


def inspect(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    texts: Iterable[str] | None = None,
    *,
    images: Sequence[Place] = (),
    audio: Sequence[Place] = (),
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    processor: Any = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_call: bool = False,
    words: bool | int = False,
    moments: bool = False,
    table_memory: int = MEMORY,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run texts, images or sounds through a model and report on its normalization layers.

    `model` is a Hub id, a folder in Hugging Face layout, "demo", what `load` returned, or a model
    object, which then needs its `tokenizer`, or its `processor` for images and audio. An object is
    used where it is, in evaluation mode for the length of the call.
    `texts` is any iterable of strings, one sample each; it is read as a stream. `images` and `audio`
    are paths of files, one sample each, run in their order; the model's own processor scales and
    normalises them. Of several kinds as many of each are run side by side: texts[i] with images[i].
    `layers` and `exclude` are globs that choose the layers to measure; `per_call` tells the calls of a
    layer that is used several times in a forward apart. With `words` it is also measured what the
    token's identity explains, see `watch`. With `moments` the report carries them, for `merge`,
    `write_moments` and `write_tensors`. `table_memory` is the most bytes that tables over positions may take,
    see `watch`. `progress` is called now and then.

    Raises ModelError when the model cannot be loaded, TextError or MediaError when there is nothing
    to measure or a file cannot be read, UsageError for options that cannot be or inputs that the
    model does not take, and RunError when it fails on them.
    """
    given = Given(texts, images, audio)
    clock = Clock(progress)
    clock.show("load")
    loaded = as_loaded(model, tokenizer, processor, loading, given.kinds)
    require_kinds(loaded.model, given.kinds)
    watcher = watch(
        loaded.model,
        layers=layers,
        exclude=exclude,
        per_call=per_call,
        words=words,
        table_memory=table_memory,
    )
    return measure(loaded, given, batching, watcher, clock, moments=moments)


def layer_names(loaded: Loaded, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Name the layers that `inspect` would measure, in its order; UsageError for a glob without a match."""
    return [norm.name for norm in find(loaded.model, only, exclude)]


def as_loaded(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    tokenizer: "PreTrainedTokenizerBase | None",
    processor: Any,
    loading: Loading,
    kinds: tuple[str, ...],
) -> Loaded:
    """Load a model, unless it is loaded; UsageError for an object without its tokenizer."""
    needed = "tokenizer" if kinds == (TEXT,) else "processor"
    if isinstance(model, Loaded):
        if getattr(model, needed) is None:
            raise UsageError(f"the model was loaded without its {needed}; load it for {' and '.join(kinds)}")
        return model
    if not isinstance(model, nn.Module):
        return load(model, loading, kinds)
    if (tokenizer if needed == "tokenizer" else processor) is None:
        raise UsageError(f"a model object came without a {needed}; pass {needed}=... or the model's id")
    model = unwrapped(model)
    name = getattr(model, "name_or_path", "") or type(model).__name__
    # A module of torch's own will do for what is asked of it here.
    return Loaded(model, tokenizer, name, None, None, (), processor)  # type: ignore[arg-type]


def measure(
    loaded: Loaded,
    given: Given,
    batching: Batching,
    watcher: Watcher,
    clock: "Clock",
    kept: Kept | None = None,
    *,
    moments: bool = False,
) -> Report:
    """Run what was given through a model under a watcher; `kept` takes the moments of single texts, too."""
    require_layers(loaded, watcher)
    forward = Forward(loaded.model, given.kinds)
    with quiet(), watcher, evaluating(loaded.model), torch.no_grad():
        if given.kinds == (TEXT,):
            run, notes = _run_texts(loaded, given, batching, watcher, forward, clock, kept)
        else:
            run, notes = _run_media(loaded, given, batching, watcher, forward, clock)
    _require_numbers(watcher)
    model = describe(loaded.model, loaded.id)
    return watcher.report_as(
        replace(model, revision=loaded.revision, commit=loaded.commit),
        replace(run, seconds=clock.seconds()),
        (*loaded.warnings, *notes),
        moments=moments,
        last=True,
    )


def _run_texts(
    loaded: Loaded,
    given: Given,
    batching: Batching,
    watcher: Watcher,
    forward: Forward,
    clock: "Clock",
    kept: Kept | None,
) -> tuple[RunInfo, list[str]]:
    texts = iter(() if given.texts is None else given.texts)
    tokenizer: Any = loaded.tokenizer
    notes, batching = probed(loaded, watcher, forward, batching)
    if kept is not None:
        kept.fit(capture.norm.features for capture in watcher.captures)
        for capture in watcher.captures:
            capture.kept = kept.layer(capture.norm.name)
    limit = length_limit(tokenizer, getattr(loaded.model, "config", None))
    batches = Batches(texts, tokenizer, batching, max_length=limit)
    clock.plan(watcher.plan_tables(batches.max_length))
    runner = Runner(watcher, forward, batching, kept)
    for batch in batches:
        runner.run(batch, batches)
        done = batches.texts - batches.pending
        clock.show("run", done, watcher.tally.tokens, _expected(batches, texts))
    if not watcher.tally.tokens:
        raise TextError(
            f"no text to measure ({batches.skipped} blank); expected at least one text with a word in it"
        )
    return run_info(watcher.tally, batches, batching), [*notes, *runner.notes]


def _run_media(
    loaded: Loaded, given: Given, batching: Batching, watcher: Watcher, forward: Forward, clock: "Clock"
) -> tuple[RunInfo, list[str]]:
    batches = MediaBatches(given, loaded.processor, batching)
    for inputs in batches:
        forward(inputs)
        clock.show("run", batches.texts, watcher.run_info().tokens, batches.expected)
    run = watcher.run_info()
    medium = given.kinds[0] if len(given.kinds) == 1 else "several"
    size = None if batching.batch_size == AUTO else batching.batch_size
    run = replace(run, texts=batches.texts, batch_size=size, order="given", medium=medium)
    return run, []


def require_layers(loaded: Loaded, watcher: Watcher) -> None:
    """Raise UsageError where no layer is left to measure."""
    if not watcher.captures:
        name = type(loaded.model).__name__
        raise UsageError(
            f"no normalization layer of {name} is left to measure; expected at least one; see --exclude"
        )


def probed(
    loaded: Loaded, watcher: Watcher, forward: Forward, batching: Batching
) -> tuple[list[str], Batching]:
    """Let the layers tell their inputs' axes apart; return what to note, and how to batch texts then."""
    tokenizer: Any = loaded.tokenizer
    notes = _probe(watcher, forward, tokenizer)
    if notes or not forward.takes_mask:
        # Where padding cannot be told from tokens, or to the model, there must be none.
        batching = replace(batching, batch_size=1)
    return notes, batching


def _probe(watcher: Watcher, forward: Forward, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Run a batch whose sizes are all different, so that every layer tells its input's axes apart.

    Returns why texts must be run one by one, if they must.
    """
    word = tokenizer("a", add_special_tokens=False)["input_ids"][:1] or [0]
    ids = torch.tensor(word).expand(PROBE)
    watcher.probing = True
    try:
        forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    except RunError:
        return []  # The texts themselves will tell.
    finally:
        watcher.probing = False
    lost = [capture.norm.name for capture in watcher.captures if capture.unaligned]
    if not lost:
        return [] if forward.takes_mask else ["the model takes no attention mask: texts were run one by one"]
    return [f"{lost[0]} and {len(lost) - 1} more do not see one row a token: texts were run one by one"]


def _require_numbers(watcher: Watcher) -> None:
    called = [capture for capture in watcher.captures if capture.seen.calls]
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


def run_info(tally: Tally, batches: Batches, batching: Batching) -> RunInfo:
    """Return an account of the batches of texts that a tally has counted."""
    return replace(
        tally.run_info(),
        texts=batches.texts,
        skipped_texts=batches.skipped,
        truncated_texts=batches.truncated,
        max_length=batches.max_length,
        special_tokens=batching.special_tokens,
        batch_size=None if batching.batch_size == AUTO else batching.batch_size,
        batch_tokens=batches.tokens,
        order=batching.order,
    )


class Clock:
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

    def plan(self, tables: TablePlan) -> None:
        """Tell the caller's function, if there is one, what is planned of the tables."""
        if self._progress:
            self._progress(Progress("plan", 0, 0, None, self.seconds(), tables))
