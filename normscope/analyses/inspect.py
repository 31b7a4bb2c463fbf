"""Runs texts, images or sounds through a model and reports on its normalization layers."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from normscope.capture.watcher import watch
from normscope.data.batching import Batching
from normscope.data.media_files import Given, Place
from normscope.data.shards import Shard
from normscope.engine.checkpoint import Checkpoint, Saver
from normscope.engine.loop import Course, facts, measure, prepare_model
from normscope.engine.progress import Clock, Progress
from normscope.engine.stop import Stop
from normscope.errors import UsageError
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.models.modality import TEXT
from normscope.norms.detection import find
from normscope.results.inspect import Report
from normscope.statistics.position_bins import MEMORY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    loaded = prepare_model(model, given.kinds, clock, loading, tokenizer, processor)
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
