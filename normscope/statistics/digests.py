"""SHA-256 digests of named tensors and the strings beside them."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

# Where a file's header keeps the digest of its tensors and of the rest of the header.
KEY = "sha256"


def digest_of(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Return 64 digits that another name, dtype, shape, element or string makes others.

    Of a tensor without memory (on the meta device) the elements are not known.
    """
    known = hashlib.sha256()
    for name, text in sorted(header.items()):
        if name != KEY:
            known.update(json.dumps([name, text]).encode())
    for name, values in sorted(tensors.items()):
        known.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        if not values.is_meta:
            known.update(_bytes(values).numpy().data)
    return known.hexdigest()


def signed(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the digest in it."""
    return {**header, KEY: digest_of(tensors, header)}


def _bytes(values: Tensor) -> Tensor:
    values = values.detach()
    if type(values) is not Tensor:  # a quantized one, whose memory is its own affair
        values = values.double()
    return values.cpu().contiguous().reshape(-1).view(torch.uint8)
