"""Provenance of a run: its model's commit or weights, and its texts."""

from dataclasses import replace

from torch import Tensor, nn

from normscope.data.batching import Batches
from normscope.data.media_batches import MediaBatches
from normscope.models.loading import Loaded
from normscope.results.provenance import Provenance, provenance_now
from normscope.statistics.digests import digest_of

# Training changes all tensors, so a few elements of each identify weights, at a small part of a run's cost.
_ELEMENTS = 1024


def provenance_of(loaded: Loaded, batches: Batches | MediaBatches) -> Provenance:
    """Return the provenance of a run that has ended; files of images and sounds are not hashed."""
    provenance = provenance_now(loaded.commit)
    if loaded.commit is None:
        provenance = replace(provenance, weights_sample=sample_digest(loaded.model))
    if isinstance(batches, MediaBatches):
        return provenance
    position = batches.position()
    return replace(provenance, texts_read=position.read, texts_sha256=position.digest)


def sample_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and first 1,024 elements of all weights and buffers.

    The elements of tensors that are not plain are left out, such as those of quantized weights.
    """
    stored = stored_tensors(model)
    shapes = {name: f"{values.dtype} {[*values.shape]}" for name, values in stored.items()}
    plain = {name: values for name, values in stored.items() if type(values) is Tensor}
    return digest_of({name: values.flatten()[:_ELEMENTS] for name, values in plain.items()}, shapes)


def weights_digest(model: nn.Module) -> str | None:
    """Return the SHA-256 of the names, dtypes, shapes and elements of all weights and buffers.

    None if some are not in memory, on the meta device.
    """
    stored = stored_tensors(model)
    return None if any(values.is_meta for values in stored.values()) else digest_of(stored, {})


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all weights and buffers of a model, by name."""
    return {name: values for name, values in model.state_dict().items() if isinstance(values, Tensor)}
