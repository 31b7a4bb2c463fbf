"""The loop: texts, images or sounds through the model, every normalization layer measured on the way."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope.batches import AUTO, Batches, Batching
from normscope.bins import MEMORY
from normscope.checkpoint import Checkpoint, Saver
from normscope.corpus import Position
from normscope.course import INTERRUPTED, LONG_FIRST, Clock, Course, Progress, facts
from normscope.errors import RunError, TextError, UsageError
from normscope.forward import Forward, evaluating
from normscope.kinds import TEXT, require_kinds
from normscope.layers import find
from normscope.lengths import length_limit
from normscope.loading import Loaded, load, quiet
from normscope.media import Given, Place
from normscope.media_batches import MediaBatches
from normscope.printable import counted
from normscope.report import Report, RunInfo
from normscope.runner import Runner
from normscope.shards import Shard
from normscope.source import Loading
from normscope.stopping import Stop
from normscope.tally import Tally
from normscope.text_notes import notes_on_texts
from normscope.watched import describe
from normscope.watcher import Watcher, watch
from normscope.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Texts and tokens of the probe: no head count, no other size of a model is likely to be either.
PROBE = (3, 11)


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
    shard: Shard | None = None,
    checkpoint: Checkpoint | None = None,
    stop: Stop | None = None,
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
    With a `shard` it takes only that part of the corpus. With a `checkpoint` it saves now and then how
    far it is in the texts, and can go on from there after a crash: with equal counts, and other numbers
    that differ by no more than the rounding of float64. `stop` ends it early; the report then says so.

    Raises ModelError when the model cannot be loaded, TextError or MediaError when there is nothing
    to measure or a file cannot be read, UsageError for options that cannot be or inputs that the
    model does not take, and RunError when it fails on them.
    """
    given = Given(texts, images, audio)
    if checkpoint is not None and given.kinds != (TEXT,):
        raise UsageError("a checkpoint was asked for with images or sounds; expected texts alone; use shards")
    if batching.unique and given.kinds != (TEXT,):
        raise UsageError("unique was asked for with images or sounds; expected texts alone; leave it out")
    if shard is not None:
        given = shard.of(given, batching.limit, unique=batching.unique)
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
    choices = {
        "layers": ", ".join(layers) or "all",
        "exclude": ", ".join(exclude) or "none",
        "per call": per_call,
        "words": words,
        "table memory": table_memory,
        "shard": shard,
    }
    saver = Saver(checkpoint, facts(loaded, batching, choices) if checkpoint else {})
    course = Course(saver, stop or Stop(), shard=shard)
    report = measure(loaded, given, batching, watcher, clock, course, moments=moments)
    if report.moments is not None and shard is not None:
        report.moments.shards = (str(shard),)
    return report


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
        note = LONG_FIRST if run.order == "length" else INTERRUPTED
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
    return run, [INTERRUPTED] if stop.asked else []


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
