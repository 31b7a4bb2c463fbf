"""The run loop: batches through the model, every normalization layer measured."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope.capture.counters import Tally
from normscope.capture.text_sample import TextSample
from normscope.capture.watched_model import describe
from normscope.capture.watcher import Watcher
from normscope.data.batching import AUTO, Batches, Batching
from normscope.data.corpus import Position, no_text, notes_on_texts
from normscope.data.max_length import length_limit
from normscope.data.media_batches import MediaBatches
from normscope.data.media_files import Inputs
from normscope.data.shards import Shard
from normscope.engine.checkpoint import Saver
from normscope.engine.few_texts import FewTexts
from normscope.engine.forward import Forward, evaluating
from normscope.engine.progress import Clock
from normscope.engine.runner import Runner
from normscope.engine.stop import Stop
from normscope.errors import RunError, TextError, UsageError
from normscope.escaping import counted
from normscope.models.loading import Loaded, load, quiet
from normscope.models.location import Loading
from normscope.models.modality import TEXT, require_kinds
from normscope.norms.module_tree import unwrapped
from normscope.results.common import RunInfo
from normscope.results.inspect import Report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INTERRUPTED = "the run was interrupted: the numbers cover the texts until then"
# The numbers of texts and tokens of the probe, which are unlikely to equal any size inside a model.
_PROBE = (3, 11)


@dataclass(frozen=True)
class RunContext:
    """The context of a run: its checkpoints, early stop, sample of single texts, shard, and few texts."""

    saver: Saver = field(default_factory=Saver)
    stop: Stop = field(default_factory=Stop)
    sample: TextSample | None = None
    shard: Shard | None = None
    few: FewTexts = field(default_factory=FewTexts)

    def resume(self, watcher: Watcher, clock: Clock) -> Position | None:
        """Restore the watcher from the checkpoint, if there is one, and return its position."""
        saved = self.saver.resume(watcher)
        if saved is None:
            return None
        clock.earlier = saved.seconds
        return saved.position

    def save_interrupted(self, watcher: Watcher, run: RunInfo, position: Position, clock: Clock) -> RunInfo:
        """Save an interrupted run and return its counts; KeyboardInterrupt before the first batch."""
        if not run.tokens:
            raise KeyboardInterrupt
        self.saver.save(watcher, position, clock.seconds(), now=True)
        return replace(
            run,
            texts=position.texts - len(position.pending),
            skipped_texts=position.skipped,
            truncated_texts=position.truncated - position.pending_truncated,
            repeated_texts=position.repeated - position.pending_repeated,
        )

    def notes_without_text(self, run: RunInfo) -> list[str]:
        """Return a note if a shard holds no text; TextError if a whole corpus holds none."""
        if run.tokens:
            return []
        if self.shard is not None:
            return [f"shard {self.shard} holds no text: there are fewer texts than shards"]
        raise no_text(run.skipped_texts)


def prepare_model(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    kinds: tuple[str, ...],
    clock: Clock,
    loading: Loading,
    tokenizer: "PreTrainedTokenizerBase | None",
    processor: Any = None,
) -> Loaded:
    """Load a model for inputs of these kinds, unless it is loaded; the clock shows the stage "load".

    Raises UsageError for an object without its tokenizer, and for kinds that the model does not take.
    """
    clock.show("load")
    loaded = _as_loaded(model, kinds, loading, tokenizer, processor)
    require_kinds(loaded.model, kinds)
    return loaded


def _as_loaded(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    kinds: tuple[str, ...],
    loading: Loading,
    tokenizer: "PreTrainedTokenizerBase | None",
    processor: Any,
) -> Loaded:
    """Load a model, unless it is loaded; UsageError for a model object without its tokenizer."""
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
    # A run calls only what every torch module has.
    return Loaded(model, tokenizer, name, None, None, (), processor)  # type: ignore[arg-type]


def measure(
    loaded: Loaded,
    inputs: Inputs,
    batching: Batching,
    watcher: Watcher,
    clock: Clock,
    context: RunContext | None = None,
    *,
    batches: Batches | None = None,
    moments: bool = False,
) -> Report:
    """Run the inputs through a model under a watcher, and return the report.

    `batches` are the batches of the texts, if they exist already.
    """
    context = context or RunContext()
    forward = Forward(loaded.model, inputs.kinds)
    with measuring(loaded, watcher):
        if inputs.kinds == (TEXT,):
            run, notes = _run_texts(loaded, inputs, batching, watcher, forward, clock, context, batches)
        else:
            run, notes = _run_media(loaded, inputs, batching, watcher, forward, clock, context)
    _require_numbers(watcher)
    model = describe(loaded.model, loaded.id)
    report = watcher.report_as(
        replace(model, revision=loaded.revision, commit=loaded.commit),
        replace(run, seconds=clock.seconds()),
        (*loaded.warnings, *notes),
        moments=moments,
        last=True,
    )
    return replace(report, pooled=context.few.pooled(run.texts, loaded.tokenizer))


def _run_texts(
    loaded: Loaded,
    inputs: Inputs,
    batching: Batching,
    watcher: Watcher,
    forward: Forward,
    clock: Clock,
    context: RunContext,
    batches: Batches | None,
) -> tuple[RunInfo, list[str]]:
    notes, batching = probe(loaded, watcher, forward, batching)
    start = context.resume(watcher, clock)
    if batches is None:
        hashed = context.saver.checkpoint is not None
        batches = text_batches(loaded, inputs.texts or (), batching, hashed=hashed, start=start)
    elif batching.batch_size == 1:
        batches.one_by_one()
    clock.plan(watcher.plan_tables(batches.max_length))
    _sample_inputs(context, watcher)
    runner = Runner(watcher, forward, batches.batching, context.sample)
    position = _run_batches(runner, batches, watcher, clock, context, start or Position())
    run, notes = run_info(watcher.tally, batches), [*notes, *runner.notes]
    if context.stop.asked:
        note = f"{_INTERRUPTED}, long texts first" if run.order == "length" else _INTERRUPTED
        run = context.save_interrupted(watcher, run, position, clock)
        return run, [*notes, *notes_on_texts(run), note]
    return run, [*notes, *notes_on_texts(run), *context.notes_without_text(run)]


def _sample_inputs(context: RunContext, watcher: Watcher) -> None:
    """Let every layer keep the statistics of single texts or samples, if the run samples them."""
    if context.sample is not None:
        context.sample.fit(capture.norm.features for capture in watcher.captures)
        for capture in watcher.captures:
            capture.texts = context.sample.layer(capture.norm.name)


def _run_batches(
    runner: Runner, batches: Batches, watcher: Watcher, clock: Clock, context: RunContext, start: Position
) -> Position:
    """Run all batches, or those until a stop is asked for; return the position after the last one."""
    position, done = start, start.texts - len(start.pending)
    try:
        for batch in context.stop.until_asked(batches):
            runner.run(batch, batches)
            context.few.add(batch)
            position = batches.position()
            done += len(batch.sources)
            clock.show("run", done, watcher.tally.tokens, batches.expected)
            context.saver.save(watcher, position, clock.seconds())
    except TextError:  # Between two batches, so the counts are complete.
        if position is not start:
            context.saver.save(watcher, position, clock.seconds(), now=True)
        raise
    return position


def text_batches(
    loaded: Loaded,
    texts: Iterable[str],
    batching: Batching,
    *,
    keep: bool = False,
    hashed: bool = False,
    start: Position | None = None,
) -> Batches:
    """Return the batches of texts, cut to the model's maximum length; the options are those of `Batches`."""
    tokenizer: Any = loaded.tokenizer
    limit = length_limit(tokenizer, getattr(loaded.model, "config", None))
    return Batches(texts, tokenizer, batching, max_length=limit, keep=keep, hashed=hashed, start=start)


def _run_media(
    loaded: Loaded,
    inputs: Inputs,
    batching: Batching,
    watcher: Watcher,
    forward: Forward,
    clock: Clock,
    context: RunContext,
) -> tuple[RunInfo, list[str]]:
    batches, stop = MediaBatches(inputs, loaded.processor, batching), context.stop
    _sample_inputs(context, watcher)
    for batch in stop.until_asked(batches):
        if context.sample is not None:
            context.sample.choose(batches.sources)
        forward(batch)
        clock.show("run", batches.texts, watcher.run_info().tokens, batches.expected)
    run = watcher.run_info()
    medium = inputs.kinds[0] if len(inputs.kinds) == 1 else "several"
    run = replace(run, texts=batches.texts, batch_size=batches.size, order="given", medium=medium)
    if stop.asked and not batches.texts:
        raise KeyboardInterrupt
    return run, [_INTERRUPTED] if stop.asked else []


@contextmanager
def measuring(loaded: Loaded, watcher: Watcher) -> Iterator[None]:
    """Open a watcher for forwards of our own, in evaluation mode and without gradients.

    Raises UsageError if no layer is left to measure.
    """
    if not watcher.captures:
        name = type(loaded.model).__name__
        raise UsageError(
            f"no normalization layer of {name} is left to measure; expected at least one; see --exclude"
        )
    # A failure to count ends this run; in a user's own forward it only becomes a note.
    watcher.guest = False
    with quiet(), watcher, evaluating(loaded.model), torch.no_grad():
        yield


def probe(
    loaded: Loaded, watcher: Watcher, forward: Forward, batching: Batching
) -> tuple[list[str], Batching]:
    """Find the token axis of every layer's input; return notes, and the batching to use for texts.

    Texts run one by one if padding cannot be masked in the model, or not be recognised at a layer.
    """
    notes = _run_probe(watcher, forward, loaded.tokenizer)
    if notes or not forward.takes_mask:
        batching = replace(batching, batch_size=1)
    return notes, batching


def _run_probe(watcher: Watcher, forward: Forward, tokenizer: Any) -> list[str]:
    """Run a batch whose sizes are all different, from which each layer identifies the axes of its input.

    Returns a note on why texts must run one by one, if they must.
    """
    token_ids = tokenizer("a", add_special_tokens=False)["input_ids"][:1] or [0]
    ids = torch.tensor(token_ids).expand(_PROBE)  # (3, 11)
    watcher.probing = True
    try:
        forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    except RunError:
        return []  # If the model fails on the texts too, the run explains it.
    finally:
        watcher.probing = False
    names = [capture.norm.name for capture in watcher.captures if capture.unaligned]
    if not names:
        return [] if forward.takes_mask else ["the model takes no attention mask: texts were run one by one"]
    return [f"{names[0]} and {len(names) - 1} more do not see one row a token: texts were run one by one"]


def _require_numbers(watcher: Watcher) -> None:
    called = [capture for capture in watcher.captures if capture.state.calls]
    if called and all(capture.moments is None for capture in called):
        raise RunError(
            f"every token at all of {counted(len(called), 'layer')} is NaN or infinite; "
            "expected finite activations; check the weights, or try --dtype float32"
        )


def run_info(tally: Tally, batches: Batches) -> RunInfo:
    """Return the counts and options of a run over these batches of texts."""
    return replace(
        tally.run_info(),
        texts=batches.texts,
        skipped_texts=batches.skipped,
        truncated_texts=batches.truncated,
        max_length=batches.max_length,
        special_tokens=batches.batching.special_tokens,
        batch_size=None if batches.batching.batch_size == AUTO else batches.batching.batch_size,
        batch_tokens=batches.tokens,
        order=batches.batching.order,
        unknown_tokens=tally.unknown,
        repeated_texts=batches.repeated,
    )
