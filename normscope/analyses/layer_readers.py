"""Finds the readers of a model's norms in one forward on torch's meta device: no weights, no memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from normscope.engine.forward import Forward, tensors_in
from normscope.errors import ModelError, RunError
from normscope.escaping import quoted
from normscope.models.modality import IMAGE, TEXT, kinds_of
from normscope.norms.detection import NormLayer
from normscope.norms.readers import Readers
from normscope.results.layers import LayerReaders

_ATEN = torch.ops.aten
_META = torch.device("meta")
# Tokens of the text, and the size and channels of the image where the configuration names none.
_TOKENS, _SIZE, _CHANNELS = 8, 224, 3


def find_readers(network: nn.Module, norms: Sequence[NormLayer], model: str) -> dict[str, LayerReaders]:
    """Return the readers of each norm's output by the norm's name; `network` is on the meta device.

    Its weights become bfloat16, which every kernel takes. `model` is its name in messages. The forward
    takes one text without padding, one image, or both. Raises ModelError if the model takes neither, or
    if its forward needs the values of weights.
    """
    network.bfloat16()
    failure = "it takes neither texts nor images"
    for kinds in _choices(kinds_of(network)):
        readers, forward = Readers(network, norms), Forward(network, kinds)
        forward.device = _META
        try:
            no_values = _NoValues()  # type: ignore[no-untyped-call]
            with torch.no_grad(), no_values, readers.watching():
                returned = forward(_inputs(getattr(network, "config", None), kinds))
        except RunError as error:
            failure = str(error)
            continue
        readers.returns(tensors_in(returned))
        return {norm.name: _summary(readers, norm.name) for norm in norms}
    got = f"the readers of the layers of {quoted(model)} cannot be found without its weights ({failure})"
    raise ModelError(f"{got}; expected a model whose forward needs no values; list its layers alone")


def _summary(readers: Readers, name: str) -> LayerReaders:
    linears = tuple(reader.name for reader in readers.linears(name))
    return LayerReaders(linears, tuple(readers.others(name)), readers.obstacle(name))


def _choices(kinds: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the kinds of inputs to try: text alone first, which most models of several kinds take."""
    wanted = tuple(kind for kind in (TEXT, IMAGE) if kind in kinds)
    yield from dict.fromkeys([wanted[:1], wanted] if wanted else [])


def _inputs(config: Any, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Return one text (1, T), one image (1, C, H, W), or both."""
    vision = getattr(config, "vision_config", None) or config
    size, channels = getattr(vision, "image_size", _SIZE), getattr(vision, "num_channels", _CHANNELS)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    inputs: dict[str, Tensor] = {}
    if TEXT in kinds:
        tokens = torch.ones((1, _TOKENS), dtype=torch.int64, device=_META)
        inputs.update(input_ids=tokens, attention_mask=tokens)
    if IMAGE in kinds:
        inputs["pixel_values"] = torch.empty((1, channels, height, width), device=_META)
    return inputs


class _NoValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that answers questions about values of tensors without values: every element is one.

    So a mask has no padding, and every expert has tokens.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, or answer it where its result depends on values."""
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.is_meta:
            if func is _ATEN._local_scalar_dense.default:
                return torch.ones((), dtype=x.dtype).item()
            if func is _ATEN.nonzero.default:
                return x.new_empty((x.numel(), x.dim()), dtype=torch.int64)
        return func(*args, **(kwargs or {}))
