"""Moments of single images at the normalization layers of a vision model."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from normscope.capture.recorder import Recorder
from normscope.capture.text_sample import TextSample
from normscope.data.batching import AUTO, Batching
from normscope.data.media_files import FilePath, Inputs
from normscope.engine.loop import RunContext
from normscope.engine.progress import Clock, Progress
from normscope.engine.session import Session
from normscope.errors import MediaError, RunError, UsageError
from normscope.escaping import counted
from normscope.models.loading import Loaded
from normscope.models.location import Loading
from normscope.results.inspect import Report
from normscope.statistics.moments import Moments
from normscope.statistics.position_bins import MEMORY


class ImageMoments(NamedTuple):
    """A vision model's run over images: its report, and what is kept of single images.

    `layers` are the moments of each BatchNorm's input, by the layer's name, one row an image and one column
    a channel, (N, C): the count of pixels or patches, their mean and M2; those of all norms where the model
    has no BatchNorm. Images keep their order. `notes` say what is left out.
    """

    report: Report
    layers: dict[str, Moments]
    notes: tuple[str, ...]


def image_moments(
    model: str | os.PathLike[str] | nn.Module | Loaded,
    images: Sequence[FilePath],
    *,
    processor: Any = None,
    loading: Loading = Loading(),
    batching: Batching = Batching(),
    table_memory: int = MEMORY,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> ImageMoments:
    """Run a vision model once over images and return the moments of each image at every layer.

    The claims speak of what enters a BatchNorm: the other layers of a model that has some are left out, with
    a note. An image file that repeats an earlier one is left out. The moments of all other images are kept,
    or those of a random sample where they would take over `table_memory` bytes. A layer is left out, with
    a note, where its rows cannot be assigned to images. All other arguments are as for `inspect`.

    Raises what `inspect` raises, MediaError when there are not two images, and RunError when no layer
    is left.
    """
    inputs = _two_or_more(_unique(_two_or_more(images).images))
    session = Session.open(model, Clock(progress), loading, None, processor, inputs.kinds)
    kept = TextSample(len(inputs.images), table_memory, seed, "image")
    batches = session.batches(inputs, batching)
    report = session.measure(Recorder(session.loaded.model), batches, RunContext(sample=kept))
    found = {name: kept.layer(name).moments() for name in report.layers}
    layers = {name: moments for name, moments in found.items() if moments is not None}
    if not layers:
        raise RunError(
            f"no layer of {report.model.id} shows which image each of its rows is of; expected a layer that "
            "does; try another vision model"
        )
    notes = _notes(report, kept, layers, len(images) - len(inputs.images))
    chosen, choice = _batch_norms(report, layers)
    return ImageMoments(report, chosen, (*notes, *choice, *report.warnings))


def _batch_norms(report: Report, layers: dict[str, Moments]) -> tuple[dict[str, Moments], list[str]]:
    """Choose the BatchNorms among the layers, or all layers where there is none; note which were chosen."""
    chosen = {name: moments for name, moments in layers.items() if report.layers[name].kind == "batchnorm"}
    others = counted(len(layers) - len(chosen), "other norm")
    if not chosen:
        norms = counted(len(layers), "norm")
        return layers, [f"{report.model.id} has no BatchNorm: claims 5 and 6 take the inputs of its {norms}"]
    if len(chosen) == len(layers):
        return layers, []
    norms = counted(len(chosen), "BatchNorm")
    return chosen, [f"claims 5 and 6 take the inputs of {norms} of {report.model.id}, not of its {others}"]


def require_both(model: object, images: Sequence[FilePath]) -> None:
    """Raise UsageError for a vision model without images, or images without one; check the image files."""
    if model is None and images:
        raise UsageError("images were given without a vision model; expected both; give --beside MODEL")
    if model is not None:
        _two_or_more(images)


def _two_or_more(images: Sequence[FilePath]) -> Inputs:
    if not images:
        raise UsageError("a vision model was given without images; expected both; give --image FILE...")
    inputs = Inputs(images=images)
    if len(images) < 2:
        raise MediaError("1 image to compare; expected at least two; give more")
    return inputs


def options_beside(loading: Loading, batching: Batching) -> dict[str, Any]:
    """Return the options of a text model's run that also hold for the vision model next to it."""
    size = batching.batch_size
    return {
        "loading": replace(loading, revision=None, attn_implementation=None),
        "batching": Batching() if size == AUTO else Batching(size),
    }


def _unique(images: Sequence[FilePath]) -> list[FilePath]:
    """Return the image files without those of the same bytes as an earlier one."""
    first: dict[bytes, FilePath] = {}
    for image in images:
        first.setdefault(sha256(Path(image).read_bytes()).digest(), image)
    return list(first.values())


def _notes(report: Report, kept: TextSample, layers: dict[str, Moments], repeated: int) -> list[str]:
    notes = []
    if repeated:
        repeat, were = ("repeats", "was") if repeated == 1 else ("repeat", "were")
        notes.append(f"{counted(repeated, 'image')} that {repeat} an earlier one exactly {were} left out")
    if len(kept.sources) < report.run.texts:
        notes.append(
            f"the moments of {len(kept.sources):,} images are kept, not of {report.run.texts:,}: more would "
            f"take over the {kept.memory:,} bytes of table memory"
        )
    lost = [name for name, layer in report.layers.items() if layer.calls and name not in layers]
    if lost:
        rest = f" and {counted(len(lost) - 1, 'other layer')}" if lost[1:] else ""
        notes.append(f"{lost[0]}{rest}: left out, because the image of each row is not known")
    return notes
