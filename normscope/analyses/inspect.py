"""Runs texts, images or sounds through a model and reports on its normalization layers."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from normscope.analyses.depth import depth_profiles
from normscope.capture.recorder import Recorder
from normscope.data.batching import Batching
from normscope.data.media_files import FilePath, Inputs
from normscope.data.shards import Shard
from normscope.engine.checkpoint import Checkpoint, Saver, facts
from normscope.engine.loop import RunContext
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session
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
    images: Sequence[FilePath] = (),
    audio: Sequence[FilePath] = (),
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    processor: Any = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    layers: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_call: bool = False,
    words: bool | int = False,
    curve: bool = False,
    moments: bool = False,
    shard: Shard | None = None,
    checkpoint: Checkpoint | None = None,
    stop: Stop | None = None,
    table_memory: int = MEMORY,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Run texts, images or sounds through a model and report on its normalization layers.

    `model` is a Hub id, a folder in Hugging Face layout or of a PEFT adapter, a GGUF file, "demo", what
    `load` returned, or a model object. An object also needs its `tokenizer`, or its `processor` for images
    and audio; it stays on its device and is in evaluation mode during the call.
    `texts` is any iterable of strings, one sample each, and is read as a stream. `images` and `audio`
    are paths of files, one sample each, in the order in which they run; the model's own processor scales
    and normalises them. Several kinds need as many samples each and run in pairs: texts[i] with images[i].
    `layers` and `exclude` are globs that choose the layers to measure. With `per_call`
    the calls of a layer that a forward calls several times are measured separately. `words` also measures
    how much the token's identity explains, and `curve` counts elements by input and output, see `watch`.
    With `moments` the report carries them, for
    `merge`, `write_moments` and `write_tensors`. `table_memory` is the maximum size in bytes of tables over
    positions, see `watch`. `progress` is called from time to time.

    With a `shard`, only that part of the corpus runs. With a `checkpoint`, the run saves its progress from
    time to time and can resume there after a crash: counts are then equal, and other numbers differ by no
    more than the rounding of float64. `stop` ends the run early, and the report says so.

    Raises ModelError when the model cannot be loaded, TextError or MediaError when there is nothing
    to measure or a file cannot be read, UsageError for invalid options or inputs that the
    model does not take, and RunError when the model fails on them.
    """
    inputs = Inputs(texts, images, audio)
    if checkpoint is not None and inputs.kinds != (TEXT,):
        raise UsageError("a checkpoint was asked for with images or sounds; expected texts alone; use shards")
    if batching.unique and inputs.kinds != (TEXT,):
        raise UsageError("unique was asked for with images or sounds; expected texts alone; leave it out")
    if shard is not None:
        inputs = shard.of(inputs, batching.limit, unique=batching.unique)
    session = Session.open(model, Clock(progress), loading, tokenizer, processor, inputs.kinds)
    recorder = Recorder(
        session.loaded.model,
        layers=layers,
        exclude=exclude,
        per_call=per_call,
        words=words,
        curve=curve,
        table_memory=table_memory,
    )
    selection = {
        "layers": ", ".join(layers) or "all",
        "exclude": ", ".join(exclude) or "none",
        "per call": per_call,
        "words": words,
        "curve": curve,
        "table memory": table_memory,
        "shard": shard,
    }
    saver = Saver(checkpoint, facts(session.loaded, batching, selection) if checkpoint else {})
    context = RunContext(saver, stop or Stop(), shard=shard)
    batches = session.batches(inputs, batching)
    report = session.measure(recorder, batches, context, moments=moments)
    report = replace(report, depth=depth_profiles(session.loaded.model, report.layers))
    if report.moments is not None and shard is not None:
        report.moments.shards = (str(shard),)
    return report


def layer_names(loaded: Loaded, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Name the layers that `inspect` would measure, in its order; UsageError for a glob without a match."""
    return [norm.name for norm in find(loaded.model, only, exclude)]
