"""The run loop: batches through the model, every normalization layer measured."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope._version import __version__
from normscope.capture.counters import Tally
from normscope.capture.text_sample import Kept
from normscope.capture.watched_model import describe
from normscope.capture.watcher import Watcher
from normscope.data.batching import AUTO, Batches, Batching
from normscope.data.corpus_position import Position
from normscope.data.max_length import length_limit
from normscope.data.media_batches import MediaBatches
from normscope.data.media_files import Given
from normscope.data.shards import Shard
from normscope.data.text_notes import no_text, notes_on_texts
from normscope.engine.checkpoint import Saver, config_digest, tokenizer_digest, weights_digest
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


_INTERRUPTED = "the run was interrupted: the numbers are of what it had seen until then"


_LONG_FIRST = "the run was interrupted: the numbers are of what it had seen until then, long texts first"


@dataclass(frozen=True)
class Course:
    """What goes with a run: what saves it, what ends it early, what keeps single texts, whose part it is."""

    saver: Saver = field(default_factory=Saver)
    stop: Stop = field(default_factory=Stop)
    kept: Kept | None = None
    shard: Shard | None = None

    def resumed(self, watcher: Watcher, clock: Clock) -> Position | None:
        """Let the watcher go on from the checkpoint, if there is one, and return how far that is."""
        saved = self.saver.resume(watcher)
        if saved is None:
            return None
        clock.earlier = saved.seconds
        return saved.position

    def interrupted(self, watcher: Watcher, run: RunInfo, position: Position, clock: Clock) -> RunInfo:
        """Save how far the run is, and return the account of that; KeyboardInterrupt before a first batch."""
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

    def without_text(self, run: RunInfo) -> list[str]:
        """Say that a shard holds no text; of a whole corpus without any it is a TextError."""
        if run.tokens:
            return []
        if self.shard is not None:
            return [f"shard {self.shard} holds no text: there are fewer texts than shards"]
        raise no_text(run.skipped_texts)


def facts(loaded: Loaded, batching: Batching, choices: dict[str, Any]) -> dict[str, Any]:
    """Return all that a checkpoint depends on, by the names that messages give it.

    How many texts are in a batch is not of it: a run that memory did not hold goes on with smaller ones.
    """
    model, config = describe(loaded.model, loaded.id), getattr(loaded.model, "config", None)
    choices = {**{name.replace("_", " "): value for name, value in vars(batching).items()}, **choices}
    del choices["batch size"]
    return {
        "model": model.id,
        "revision": loaded.revision,
        "commit": loaded.commit,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "parameters": model.parameters,
        "configuration": config_digest(config),
        "attention": getattr(config, "_attn_implementation", None),
        "weights": weights_digest(loaded.model),
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "normscope": __version__,
        **choices,
    }


# Texts and tokens of the probe: no head count, no other size of a model is likely to be either.
_PROBE = (3, 11)


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
    clock: Clock,
    course: Course | None = None,
    *,
    batches: Batches | None = None,
    moments: bool = False,
) -> Report:
    """Run what was given through a model under a watcher; `course` is what goes on beside.

    `batches` are those of the texts where they are at hand.
    """
    course = course or Course()
    require_layers(loaded, watcher)
    forward = Forward(loaded.model, given.kinds)
    with quiet(), watcher, evaluating(loaded.model), torch.no_grad():
        if given.kinds == (TEXT,):
            run, notes = _run_texts(loaded, given, batching, watcher, forward, clock, course, batches)
        else:
            run, notes = _run_media(loaded, given, batching, watcher, forward, clock, course.stop)
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
    clock: Clock,
    course: Course,
    batches: Batches | None,
) -> tuple[RunInfo, list[str]]:
    notes, batching = probed(loaded, watcher, forward, batching)
    start = course.resumed(watcher, clock)
    if batches is None:
        hashed = course.saver.checkpoint is not None
        batches = text_batches(loaded, given.texts or (), batching, hashed=hashed, start=start)
    elif batching.batch_size == 1:
        batches.one_by_one()
    clock.plan(watcher.plan_tables(batches.max_length))
    _keep(course, watcher)
    runner = Runner(watcher, forward, batches.batching, course.kept)
    position = _run_batches(runner, batches, watcher, clock, course, start or Position())
    run, notes = run_info(watcher.tally, batches), [*notes, *runner.notes]
    if course.stop.asked:
        note = _LONG_FIRST if run.order == "length" else _INTERRUPTED
        run = course.interrupted(watcher, run, position, clock)
        return run, [*notes, *notes_on_texts(run), note]
    return run, [*notes, *notes_on_texts(run), *course.without_text(run)]


def _keep(course: Course, watcher: Watcher) -> None:
    """Let every layer keep the statistics of single texts, where they are to be kept."""
    if course.kept is not None:
        course.kept.fit(capture.norm.features for capture in watcher.captures)
        for capture in watcher.captures:
            capture.kept = course.kept.layer(capture.norm.name)


def _run_batches(
    runner: Runner, batches: Batches, watcher: Watcher, clock: Clock, course: Course, start: Position
) -> Position:
    """Run batch after batch, until there are no more or the end is asked for; return how far that is."""
    position, done = start, start.texts - len(start.pending)
    try:
        for batch in course.stop.until_asked(batches):
            runner.run(batch, batches)
            position = batches.position()
            done += len(batch.sources)
            clock.show("run", done, watcher.tally.tokens, batches.expected)
            course.saver.save(watcher, position, clock.seconds())
    except TextError:  # No batch has run since then: what is counted is whole.
        if position is not start:
            course.saver.save(watcher, position, clock.seconds(), now=True)
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
    """Return the batches of texts for a model, no longer than it takes; the rest is as in `Batches`."""
    tokenizer: Any = loaded.tokenizer
    limit = length_limit(tokenizer, getattr(loaded.model, "config", None))
    return Batches(texts, tokenizer, batching, max_length=limit, keep=keep, hashed=hashed, start=start)


def _run_media(
    loaded: Loaded,
    given: Given,
    batching: Batching,
    watcher: Watcher,
    forward: Forward,
    clock: Clock,
    stop: Stop,
) -> tuple[RunInfo, list[str]]:
    batches = MediaBatches(given, loaded.processor, batching)
    watcher.guest = False
    for inputs in stop.until_asked(batches):
        forward(inputs)
        clock.show("run", batches.texts, watcher.run_info().tokens, batches.expected)
    run = watcher.run_info()
    medium = given.kinds[0] if len(given.kinds) == 1 else "several"
    size = None if batching.batch_size == AUTO else batching.batch_size
    run = replace(run, texts=batches.texts, batch_size=size, order="given", medium=medium)
    if stop.asked and not batches.texts:
        raise KeyboardInterrupt
    return run, [_INTERRUPTED] if stop.asked else []


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
    watcher.guest = False
    notes = _probe(watcher, forward, loaded.tokenizer)
    if notes or not forward.takes_mask:
        # Where padding cannot be told from tokens, or to the model, there must be none.
        batching = replace(batching, batch_size=1)
    return notes, batching


def _probe(watcher: Watcher, forward: Forward, tokenizer: Any) -> list[str]:
    """Run a batch whose sizes are all different, so that every layer tells its input's axes apart.

    Returns why texts must be run one by one, if they must.
    """
    word = tokenizer("a", add_special_tokens=False)["input_ids"][:1] or [0]
    ids = torch.tensor(word).expand(_PROBE)
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
            f"every token at all of {counted(len(called), 'layer')} is NaN or infinite; "
            "expected finite activations; check the weights, or try --dtype float32"
        )


def run_info(tally: Tally, batches: Batches) -> RunInfo:
    """Return an account of the batches of texts that a tally has counted."""
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
